"""A model's tokenizer as transformers loads it, written as the files of an artifact.

Which class transformers takes, what that class builds anew, which flags count and which of half a
dozen files hold a token: all of that is settled here, once, by transformers itself. The runtime
finds one `tokenizer.json` that says everything, and beside it the names of special tokens.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.errors import ModelError
from edgec.template import compile_template

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

__all__ = ["rebuilt_tokenizer_files", "tokenizer_files"]

_FLAGS = (
    "split_special_tokens",
    "clean_up_tokenization_spaces",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
)


def tokenizer_files(
    model: str,
    folder: Path,
    config: PreTrainedConfig,
    *,
    trust_remote_code: bool = False,
) -> dict[str, bytes]:
    """`tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` for an artifact.

    Args:
        model: What errors call the model. transformers knows some by their names on the hub.
        folder: Has `tokenizer.json`.
        config: The model's configuration, on which the class of the tokenizer depends.
        trust_remote_code: Whether a class that comes with the model may run.

    Raises:
        ModelError: a file is damaged, or the chat template does not parse.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    named = copy.copy(config)
    named.name_or_path = model
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        tokenizer = _native(
            lambda: AutoTokenizer.from_pretrained(
                folder, config=named, mistral_format=False, **options
            )
        )
    except Exception:
        tokenizer = None  # a class of the model's own, say; the file may be read without it
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        try:
            tokenizer = _native(lambda: PreTrainedTokenizerFast.from_pretrained(folder, **options))
        except Exception as error:
            raise _damaged(model, error) from None
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _older_template(model, folder / "chat_template.json")
    files, settings, templates = _parts(model, tokenizer)
    if list(templates) == ["default"]:
        files["chat_template.jinja"] = templates["default"].encode()
    elif templates:
        settings["chat_template"] = [
            {"name": name, "template": source} for name, source in templates.items()
        ]
    return {**files, "tokenizer_config.json": _json(settings)}


def rebuilt_tokenizer_files(model: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same for a tokenizer that was rebuilt from a file of another format.

    `add_bos_token` and `add_eos_token` of its `tokenizer_config.json` count here: they are all that
    says which tokens to add. The chat template stays where it is.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    settings = json.loads(files["tokenizer_config.json"])
    try:
        tokenizer = _native(
            lambda: PreTrainedTokenizerFast(
                tokenizer_object=Tokenizer.from_str(files["tokenizer.json"].decode()), **settings
            )
        )
    except Exception as error:
        raise _damaged(model, error) from None
    rebuilt, kept, templates = _parts(model, tokenizer)
    if templates:
        kept["chat_template"] = settings["chat_template"]
    return {**files, **rebuilt, "tokenizer_config.json": _json(kept)}


def _parts(
    model: str, tokenizer: PreTrainedTokenizerFast
) -> tuple[dict[str, bytes], dict[str, Any], dict[str, str]]:
    """`tokenizer.json`, the settings beside it, and the chat templates."""
    special = dict(tokenizer.special_tokens_map)
    own = {name: special.pop(name) for name in list(special) if not name.endswith("_token")}
    # What a tokenizer.json cannot say.
    flags = {name: True for name in _FLAGS if getattr(tokenizer, name)}
    settings: dict[str, Any] = special | ({"extra_special_tokens": own} if own else {}) | flags
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    files = {"tokenizer.json": backend.to_str().encode()}
    return files, settings, _templates(model, tokenizer.chat_template)


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, indent=2).encode() + b"\n"


def _older_template(model: str, path: Path) -> Any:
    """The template in a file that some older folders have."""
    try:
        return json.loads(path.read_text("utf-8"))["chat_template"] if path.is_file() else None
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise _damaged(model, error) from None


def _templates(model: str, found: Any) -> dict[str, str]:
    """Chat templates by name, each of which parses.

    Raises:
        ModelError: one does not.
    """
    templates = found if isinstance(found, dict) else {"default": found}
    templates = {name: source for name, source in templates.items() if source is not None}
    for name, source in templates.items():
        try:
            if not isinstance(source, str):
                raise TypeError(f"it is a {type(source).__name__}, not text")
            compile_template(source)
            source.encode()
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ModelError(
                f"model {model}: its chat template {name!r} cannot be used: {reason[:200]}",
                "correct it, or remove it: text can be completed without",
            ) from None
    return templates


def _native(call: Callable[[], Any]) -> Any:
    """The result of a call into the tokenizers library, whose panics are no `Exception`."""
    try:
        return call()
    except (Exception, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as panic:
        raise ValueError(str(panic)) from None


def _damaged(model: str, error: Exception) -> ModelError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ModelError(
        f"model {model}: its tokenizer cannot be loaded: {reason[:200]}",
        "download or save tokenizer.json and the files beside it again",
    )
