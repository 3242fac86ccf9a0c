"""A model's tokenizer as transformers loads it, written as the files of an artifact.

Which class transformers takes, what that class builds anew, which flags count and which of half a
dozen files hold a token: all of that is settled here, once, by transformers itself. The runtime
finds one `tokenizer.json` that says everything, and beside it the names of special tokens.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.errors import ModelError
from edgec.json_files import read_json
from edgec.models.sources.hub import TEMPLATES
from edgec.template import compile_template

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

__all__ = ["tokenizer_files"]

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
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        _check_json(model, folder / name)
    place = "tokenizer_config.json"
    for text in (folder / "chat_template.jinja", *folder.glob(TEMPLATES)):
        if text.is_file():
            place = "chat_template.jinja"
            _check_text(model, text)
    tokenizer = _load(model, folder, config, trust_remote_code)
    older = folder / "chat_template.json"
    if tokenizer.chat_template is None and _check_json(model, older):
        tokenizer.chat_template = read_json(older).get("chat_template")
    files, settings, templates = _parts(model, tokenizer, place)
    if list(templates) == ["default"]:
        files["chat_template.jinja"] = templates["default"].encode()
    elif templates:
        settings["chat_template"] = [
            {"name": name, "template": source} for name, source in templates.items()
        ]
    return {**files, "tokenizer_config.json": _json(settings)}


def _load(
    model: str, folder: Path, config: PreTrainedConfig, trust_remote_code: bool
) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import logging

    named = copy.copy(config)
    named.name_or_path = model
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    chosen = {**options, "config": named, "mistral_format": False}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its advice is for the model's authors
    tokenizer: Any
    try:
        try:
            tokenizer = _native(lambda: AutoTokenizer.from_pretrained(folder, **chosen))
        except Exception:
            tokenizer = None  # a class of the model's own, say: the file may be read without it
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            tokenizer = _native(lambda: PreTrainedTokenizerFast.from_pretrained(folder, **options))
        made: PreTrainedTokenizerFast = tokenizer
        return made
    except Exception as error:
        raise _damaged(model, error) from None
    finally:
        logging.set_verbosity(verbosity)


def _parts(
    model: str, tokenizer: PreTrainedTokenizerFast, place: str
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
    text = backend.to_str()
    try:
        _native(lambda: _try(text))
    except Exception as error:
        raise _damaged(model, error) from None
    files = {"tokenizer.json": text.encode()}
    return files, settings, _templates(model, tokenizer.chat_template, place)


def _json(values: dict[str, Any]) -> bytes:
    text = json.dumps(values, ensure_ascii=False, indent=2)
    # A lone surrogate becomes the escape that JSON has for it.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _check_text(model: str, path: Path) -> None:
    try:
        path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {model}: {path.name} cannot be read: {_line(error)}", "correct or remove it"
        ) from None


def _check_json(model: str, path: Path) -> bool:
    """Whether the file is there; then it is an object."""
    if not path.is_file():
        return False
    try:
        value = read_json(path)
        if not isinstance(value, dict):
            raise TypeError("it is not an object")
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"model {model}: {path.name} cannot be read: {_line(error)}", "correct or remove it"
        ) from None
    return True


def _templates(model: str, found: Any, place: str) -> dict[str, str]:
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
            raise ModelError(
                f"model {model}: {place}: chat template {name!r} cannot be used: {_line(error)}",
                "correct it, or remove it: without one a model takes plain text",
            ) from None
    return templates


def _try(text: str) -> None:
    """Reads and uses what was written: two tokens of one id, say, are one afterwards."""
    from tokenizers import Tokenizer

    written = Tokenizer.from_str(text)
    written.decode(written.encode("a b").ids)


def _native(call: Callable[[], Any]) -> Any:
    """The result of a call into the tokenizers library, whose panics are no `Exception`."""
    try:
        return call()
    except (Exception, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as panic:
        raise ValueError(str(panic)) from None


def _damaged(model: str, error: Exception) -> ModelError:
    return ModelError(
        f"model {model}: tokenizer.json or a file beside it cannot be loaded: {_line(error)}",
        "download or save them again",
    )


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
