"""The model's small files, opened as the runtime will open them, before anything is compiled.

An artifact whose tokenizer, chat template or generation defaults cannot be read cannot be opened.
The readers are the runtime's own, so that both agree; nothing else of the runtime is used here.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from edgec.errors import EdgecError, ModelError
from edgec.runtime.chat import ChatTemplate
from edgec.runtime.config import GenerationConfig
from edgec.runtime.tokenizer import Tokenizer
from edgec.tokenizer_files import TOKENIZER_FILES as FILES

__all__ = ["check_files"]

_REMEDIES = {
    "tokenizer_config.json": "correct its chat_template, or remove it",
    "chat_template.jinja": "correct it, or remove it: without one a model takes plain text",
    "generation_config.json": "correct it, or remove it",
}


def check_files(model: str, folder: Path) -> None:
    """Opens the files that an artifact carries along.

    Args:
        model: What the user gave.
        folder: Has `tokenizer.json` and what else of `TOKENIZER_FILES` the model has.

    Raises:
        ModelError: the runtime could not open one of them.
    """
    name = "tokenizer.json"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever runs the artifact is warned
            tokenizer = Tokenizer(folder)
            tokenizer.encode("a b")
            name = "chat_template.jinja"
            if not (folder / name).is_file():
                name = "tokenizer_config.json"
            if (template := ChatTemplate.load(folder, tokenizer)) is not None:
                template.check()
            name = "generation_config.json"
            if (folder / name).is_file():
                GenerationConfig.from_file(folder / name)
    except MemoryError:
        raise
    except BaseException as error:  # the tokenizer's bindings panic past Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        what = error.what if isinstance(error, EdgecError) else f"{type(error).__name__}: {error}"
        reason = what.replace(f"{folder}/", "")
        raise ModelError(
            f"model {model}: " + (reason if reason.startswith(FILES) else f"{name}: {reason}"),
            _REMEDIES.get(name, "download or save it again"),
        ) from None
