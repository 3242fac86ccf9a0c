"""Text to token ids and back, with a Hugging Face `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.errors import ArtifactError
from edgec.json_files import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HFTokenizer

__all__ = ["Detokenizer", "Tokenizer"]

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


class Tokenizer:
    """The tokenizer of an artifact or a Hugging Face folder.

    Args:
        folder: Has `tokenizer.json`, and where the model has them `tokenizer_config.json` and
            `special_tokens_map.json`.

    Raises:
        ArtifactError: `tokenizer.json` is missing, or a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as HFTokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ArtifactError(f"{folder}: no tokenizer.json", "compile again with its tokenizer")
        try:
            self._tokenizer: HFTokenizer = HFTokenizer.from_file(str(path))
        except Exception as error:  # the bindings raise bare Exception
            raise ArtifactError(f"{path}: cannot be read: {error}", "compile again") from None
        # A stored limit of a training run would cut or pad prompts silently.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.config: dict[str, Any] = _read_json(folder / "tokenizer_config.json")
        self.special_tokens = _special_tokens(
            {**_read_json(folder / "special_tokens_map.json"), **self.config}
        )
        self._set_post_processor()

    def _set_post_processor(self) -> None:
        """Lets `add_bos_token` and `add_eos_token` overrule the file, as in transformers."""
        if "add_bos_token" not in self.config and "add_eos_token" not in self.config:
            return
        from tokenizers.processors import TemplateProcessing

        bos = self.special_tokens.get("bos_token") if self.config.get("add_bos_token") else None
        eos = self.special_tokens.get("eos_token") if self.config.get("add_eos_token") else None
        single = [*([f"{bos}:0"] if bos else []), "$A:0", *([f"{eos}:0"] if eos else [])]
        pair = [*single, *([f"{bos}:1"] if bos else []), "$B:1", *([f"{eos}:1"] if eos else [])]
        added = [(token, self.id_of(token)) for token in (bos, eos) if token]
        self._tokenizer.post_processor = TemplateProcessing(
            single=single,
            pair=pair,
            special_tokens=[(token, index) for token, index in added if index is not None],
        )

    @property
    def vocab_size(self) -> int:
        """How many ids the tokenizer knows; a model's vocabulary may be padded to more."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def eos_token_id(self) -> int | None:
        token = self.special_tokens.get("eos_token")
        return None if token is None else self.id_of(token)

    def to_json(self) -> str:
        """The whole tokenizer, in the format of `tokenizer.json`."""
        text: str = self._tokenizer.to_str()
        return text

    def id_of(self, token: str) -> int | None:
        """The id of a token by its exact spelling, special ones too."""
        index: int | None = self._tokenizer.token_to_id(token)
        return index

    def special_id(self, text: str) -> int | None:
        """The id, if `text` is a special token, which never shows in decoded text."""
        for index, token in self._tokenizer.get_added_tokens_decoder().items():
            if token.special and token.content == text:
                return int(index)
        return None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids. `add_special_tokens` adds the model's own, such as a beginning-of-text."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of all ids at once; ids that the tokenizer does not know have none."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)
        return text


class Detokenizer:
    """Turns a stream of ids into text, never splitting a character over two pieces.

    A token may hold a part of a character, and the text of a token may depend on the ones
    before it (a leading space). So each piece is the difference between decoding a short window
    with and without the new tokens; text that ends in U+FFFD waits for the rest of its character.

    Args:
        prompt: The ids before the stream; its last few are the first window.
    """

    _WINDOW = 6

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._window = list(prompt[-self._WINDOW :])
        self._shown = len(self._window)

    def add(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        self._window.append(token)
        return self._difference(hold=True)

    def finish(self) -> str:
        """What is still held back: an incomplete character shows as U+FFFD."""
        return self._difference(hold=False)

    def _difference(self, *, hold: bool) -> str:
        before = self._tokenizer.decode(self._window[: self._shown])
        after = self._tokenizer.decode(self._window)
        if hold and after.endswith("\ufffd"):
            return ""
        # Not simply after[len(before):]: a prompt may itself end within a character.
        new = after[_common_prefix(before, after) :]
        if new:
            self._window = self._window[self._shown :]
            self._shown = len(self._window)
        return new


def _common_prefix(a: str, b: str) -> int:
    limit = min(len(a), len(b))
    return next((i for i in range(limit) if a[i] != b[i]), limit)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}", "compile again") from None
    if not isinstance(data, dict):
        raise ArtifactError(f"{path}: must be a JSON object", "compile again")
    return data


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Name to spelling; a token is written as a string or as an object with `content`."""
    tokens = {}
    for name in _SPECIAL:
        value = config.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            tokens[name] = value
    return tokens
