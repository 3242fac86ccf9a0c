"""Text to token ids and back, with a Hugging Face `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.errors import ArtifactError, InputError
from edgec.json_files import read_json
from edgec.runtime.added_tokens import add_tokens, merged, named_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HFTokenizer

__all__ = ["Detokenizer", "TextTooLong", "Tokenizer"]

_REPLACED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
    (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
"""The replacements of transformers' clean_up_tokenization_spaces, in this order."""


class TextTooLong(InputError):
    """Text of more tokens than there may be, by its length alone."""


class Tokenizer:
    """The tokenizer of an artifact or a Hugging Face folder.

    Whether a beginning-of-text token is added says the post-processor in `tokenizer.json`, as in
    transformers 5: `add_bos_token` and `add_eos_token` of a configuration beside it do not count.

    Args:
        folder: Has `tokenizer.json`, and where the model has them `tokenizer_config.json`,
            `special_tokens_map.json` and `added_tokens.json`.

    Raises:
        ArtifactError: `tokenizer.json` is missing, or a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as HFTokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ArtifactError(f"{folder}: no tokenizer.json", "compile again with its tokenizer")
        self.config: dict[str, Any] = _read_json(folder / "tokenizer_config.json")
        values = merged(self.config, _read_json(folder / "special_tokens_map.json"))
        self.special_tokens = named_tokens(values)

        def refuse(reason: str) -> ArtifactError:
            return ArtifactError(f"{path}: cannot be read: {reason}", "compile again")

        with _Native(refuse):
            self._tokenizer: HFTokenizer = HFTokenizer.from_file(str(path))
            add_tokens(self._tokenizer, values, _read_json(folder / "added_tokens.json"))
            # A stored limit of a training run would cut or pad prompts silently.
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._tokenizer.encode_special_tokens = bool(self.config.get("split_special_tokens"))
            self._is_bpe = type(self._tokenizer.model).__name__ == "BPE"

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
        with _Native(_refused_text):
            index: int | None = self._tokenizer.token_to_id(well_formed(token))
        return index

    def special_id(self, text: str) -> int | None:
        """The id, if `text` is a special token, which never shows in decoded text."""
        for index, token in self._tokenizer.get_added_tokens_decoder().items():
            if token.special and token.content == text:
                return int(index)
        return None

    def encode(
        self, text: str, *, add_special_tokens: bool = True, context: int | None = None
    ) -> list[int]:
        """Token ids.

        Args:
            text: Halves of surrogate pairs become the character that they make, or U+FFFD.
            add_special_tokens: Adds the model's own, such as a beginning-of-text.
            context: Refuses text that cannot fit into so many tokens before any work is done.

        Raises:
            TextTooLong: the text cannot fit into `context`.
            InputError: the tokenizer fails on it.
        """
        text = well_formed(text)
        if context is not None and (least := self.least_tokens(text, context)) > context:
            raise TextTooLong(
                f"a prompt of at least {least} tokens is beyond the context of {context}",
                "shorten the prompt, or compile with a larger --ctx-size",
            )
        with _Native(_refused_text):
            # A batch lets other threads run meanwhile; a single text does not.
            encoded = self._tokenizer.encode_batch_fast(
                [text], add_special_tokens=add_special_tokens
            )
            return list(encoded[0].ids)

    def least_tokens(self, text: str, enough: int = 0) -> int:
        """A lower bound of the number of tokens of `text`, from its length alone.

        A normaliser that drops text, such as repeated spaces, is given a factor of four.

        Args:
            text: Any text.
            enough: Do not count where this bound cannot exceed it.
        """
        if len(text) <= enough:
            return min(1, len(text))
        length = len(text.encode("utf-8", "surrogatepass"))
        return -(-length // self._most_bytes)

    @cached_property
    def _most_bytes(self) -> int:
        """How many bytes of text one token may stand for."""
        longest = max((len(t.encode()) for t in self._tokenizer.get_vocab()), default=1)
        return max(1, longest) * (1 if self._tokenizer.normalizer is None else 4)

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of all ids at once; ids that the tokenizer does not know have none.

        Raises:
            InputError: a number cannot be an id, or the tokenizer fails.
        """
        with _Native(lambda reason: InputError(f"these tokens have no text: {reason}")):
            # A long one as a batch, which lets other threads run meanwhile.
            decode = self._tokenizer.decode if len(tokens) < 1000 else self._decode_long
            text: str = decode(list(tokens), skip_special_tokens=skip_special_tokens)
        if self._cleans_up:
            for old, new in _REPLACED:
                text = text.replace(old, new)
        return text

    def _decode_long(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        texts = self._tokenizer.decode_batch([tokens], skip_special_tokens=skip_special_tokens)
        return str(texts[0])

    @cached_property
    def _cleans_up(self) -> bool:
        """Whether decoding removes spaces before punctuation, which transformers leaves to BPE."""
        forced = self.config.get(
            "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
        )
        return bool(
            self.config.get("clean_up_tokenization_spaces") and (forced or not self._is_bpe)
        )

    def unsettled(self, text: str) -> bool:
        """Whether more tokens may change the end of decoded text."""
        if text.endswith("\ufffd"):
            return True
        beginnings = (old[:n] for old, _ in _REPLACED for n in range(1, len(old)))
        return self._cleans_up and text.endswith(tuple(beginnings))


def well_formed(text: str) -> str:
    """`text` as Unicode: a lone surrogate, half of a character that was cut in two, is U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _refused_text(reason: str) -> InputError:
    return InputError(f"the tokenizer fails on this text: {reason}", "shorten or change it")


class _Native:
    """Around calls into the tokenizers library, whose panics are `BaseException` only.

    A class, not a generator: text is made of tokens in each step.
    """

    def __init__(self, error: Callable[[str], InputError]) -> None:
        self._error = error

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, problem: BaseException | None, traceback: object) -> None:
        passed = (InputError, KeyboardInterrupt, SystemExit, GeneratorExit)
        if problem is not None and not isinstance(problem, passed):
            reason = " ".join(str(problem).split()) or type(problem).__name__
            raise self._error(reason[:200]) from None


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
        """The text still held back: an incomplete character shows as U+FFFD."""
        return self._difference(hold=False)

    def _difference(self, *, hold: bool) -> str:
        before = self._tokenizer.decode(self._window[: self._shown])
        after = self._tokenizer.decode(self._window)
        if hold and self._tokenizer.unsettled(after):
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
