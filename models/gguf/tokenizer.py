"""A GGUF file's vocabulary as `tokenizer.json`, by the rules of llama.cpp's `llama-vocab.cpp`.

The file has tokens, their types and merges or scores, and names of rules. What it does not say
(which tokens end a text, whether one begins it) has the default that llama.cpp has.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from edgec.errors import ModelError
from edgec.models.gguf.header import DAMAGED, Header, Values, shown
from edgec.models.gguf.splits import SPLITS, Split

__all__ = ["Vocabulary", "tokenizer_files"]

_BLANK = "\u2581"  # sentencepiece's spelling of a space


class _Kind(IntEnum):
    """The types of tokens, `LLAMA_TOKEN_TYPE_*`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_ENDS = frozenset((
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
    "<EOT>", "_<EOT>", "[EOT]", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<end_of_utterance>",
    "<|eom_id|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "</s>", "[EOS]", "<eos>",
    "<turn|>", "<|tool_response>", "[e~[", "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>",
    "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
))  # fmt: skip
"""Spellings of tokens that end a text or a turn, whatever the file names."""

_END_KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")


@dataclass(frozen=True)
class _Model:
    """What `tokenizer.ggml.model` stands for where the file says no more.

    Attributes:
        bos: Its id, if that token is one of control.
        eos: Likewise.
        unknown: Likewise.
        add_bos: Whether it begins a text.
        add_eos: Whether it ends one.
        space: Whether a blank goes before the first word.
    """

    bos: int | None = None
    eos: int | None = None
    unknown: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    space: bool = False


_MODELS = {
    "gpt2": _Model(bos=11, eos=11),
    "gemma4": _Model(add_bos=True),
    "llama": _Model(bos=1, eos=2, unknown=0, add_bos=True, space=True),
    "t5": _Model(eos=1, unknown=2, add_eos=True),
}


class Vocabulary:
    """The vocabulary of a file, checked.

    Args:
        header: The file's header.

    Raises:
        ModelError: there is none, it is damaged, or its rules are not known; they are named.
    """

    def __init__(self, header: Header) -> None:
        self.header, self.path = header, header.path
        self.model = self._text("model", "")
        if self.model not in _MODELS:
            raise ModelError(
                f"{self.path}: tokenizer.ggml.model {self.model!r} cannot be imported",
                f"there are {', '.join(_MODELS)}; compile the original model with --quantize int4",
            )
        self._rules = _MODELS[self.model]
        self.split = self._find_split()
        self.tokens = self._read_tokens()
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        self.kinds = self._read_kinds()

    def _get(self, name: str, kind: type, default: Any) -> Any:
        value = self.header.metadata.get(f"tokenizer.ggml.{name}")
        if value is None:
            return default
        if type(value) is not kind:
            raise ModelError(
                f"{self.path}: tokenizer.ggml.{name} is {shown(value)}, no {kind.__name__}",
                DAMAGED,
            )
        return value

    def _text(self, name: str, default: str) -> str:
        text: str = self._get(name, str, default)
        return text

    def _find_split(self) -> Split:
        name = "gemma4" if self.model == "gemma4" else self._text("pre", "default")
        # Only byte-level vocabularies are cut beforehand; the name says nothing elsewhere.
        if self.model not in ("gpt2", "gemma4"):
            return Split(())
        if name not in SPLITS:
            raise ModelError(
                f"{self.path}: tokenizer.ggml.pre {shown(name)} is not known",
                "compile the original model with --quantize int4",
            )
        return SPLITS[name]

    def _array(self, name: str) -> Values | None:
        value = self.header.metadata.get(f"tokenizer.ggml.{name}")
        if value is not None and not isinstance(value, Values):
            raise ModelError(f"{self.path}: tokenizer.ggml.{name} is no array", DAMAGED)
        return value

    def _read_tokens(self) -> list[str]:
        found = self._array("tokens")
        if found is None or not found.count:
            raise ModelError(f"{self.path}: no vocabulary (tokenizer.ggml.tokens)", DAMAGED)
        texts = found.texts()
        last = {token: index for index, token in enumerate(texts)}
        # As in llama.cpp the last of those that are spelled alike is the one that text becomes.
        return [
            token
            if token and last[token] == index
            else f"[{'DOUBLE' if token else 'EMPTY'}_{index}]"
            for index, token in enumerate(texts)
        ]

    def _numbers(self, name: str, kinds: str) -> np.ndarray[Any, Any] | None:
        found = self._array(name)
        if found is None:
            return None
        values = found.numbers()
        if values.dtype.kind not in kinds or len(values) < len(self.tokens):
            raise ModelError(
                f"{self.path}: tokenizer.ggml.{name} does not fit {len(self.tokens)} tokens",
                DAMAGED,
            )
        return values[: len(self.tokens)]

    def _read_kinds(self) -> list[int]:
        found = self._numbers("token_type", "iu")
        kinds = [int(_Kind.NORMAL)] * len(self.tokens) if found is None else found.tolist()
        for token in _ENDS:
            # Files exist that have these as ordinary text.
            if (index := self.ids.get(token)) is not None:
                kinds[index] = _Kind.CONTROL
        for token, kind in self._ordinary().items():
            kinds[self.ids[token]] = kind
        return kinds

    def _ordinary(self) -> dict[str, int]:
        """Tokens that would end a text, were there not others for it; with their types."""
        ids = self.ids.keys()
        found: dict[str, int] = {}
        if {"<|return|>", "<|call|>"} <= ids or (
            "<|flush|>" in ids and not ids.isdisjoint({"<|call|>", "<|calls|>"})
        ):
            found["<|end|>"] = _Kind.USER_DEFINED
        if not ids.isdisjoint({"<|tool_response>", "<|plamo:eos|>"}):
            found["</s>"] = _Kind.NORMAL
        return {token: kind for token, kind in found.items() if token in ids}

    def scores(self) -> list[float]:
        """The score of each token.

        Raises:
            ModelError: they are missing or not finite.
        """
        found = self._numbers("scores", "fi")
        if found is None or not np.isfinite(found).all():
            raise ModelError(f"{self.path}: tokenizer.ggml.scores: missing or NaN", DAMAGED)
        values: list[float] = found.astype(float).tolist()
        return values

    def merges(self) -> list[list[str]]:
        """The pairs that are joined, best first.

        Raises:
            ModelError: they are missing, or not made of the vocabulary's tokens.
        """
        found = self._array("merges")
        if found is None:
            raise ModelError(f"{self.path}: no tokenizer.ggml.merges", DAMAGED)
        ids, pairs = self.ids, []
        for merge in found.texts():
            cut = merge.find(" ", 1)
            left, right = merge[:cut], merge[cut + 1 :]
            if cut < 0 or left not in ids or right not in ids or left + right not in ids:
                raise ModelError(
                    f"{self.path}: tokenizer.ggml.merges: {shown(merge)} is not of its tokens",
                    DAMAGED,
                )
            pairs.append([left, right])
        return pairs

    def merges_of_scores(self) -> list[list[str]]:
        """All pairs of tokens that make a token, those with the best score first."""
        scores, ids = self.scores(), self.ids
        joined = (_Kind.NORMAL, _Kind.UNUSED)
        usable = {t: i for t, i in ids.items() if self.kinds[i] in joined}
        found = []
        for token, index in usable.items():
            for cut in range(1, len(token)):
                left = usable.get(token[:cut])
                if left is not None and (right := usable.get(token[cut:])) is not None:
                    found.append((-scores[index], left, right))
        found.sort()
        return [[self.tokens[left], self.tokens[right]] for _, left, right in found]

    def flag(self, name: str, default: bool) -> bool:
        """A flag of `tokenizer.ggml`."""
        value: bool = self._get(name, bool, default)
        return value

    @property
    def add_bos(self) -> bool:
        """Whether a text begins with a token for it."""
        default = self._rules.add_bos or self.split.add_bos
        # llama.cpp has it so for this one whatever the file says.
        return self.flag("add_bos_token", default) or self.split is SPLITS["gemma4"]

    @property
    def add_eos(self) -> bool:
        """Whether a prompt ends with the token for the end of a text."""
        return self.flag("add_eos_token", self._rules.add_eos)

    @property
    def add_space(self) -> bool:
        """Whether a blank goes before a text, as sentencepiece has it."""
        return self.flag("add_space_prefix", self._rules.space)

    def id_of(self, name: str) -> int | None:
        """The id that the file names for `bos`, `eos`, `eot`, `unknown` and so on."""
        value = self._get(f"{name}_token_id", int, None)
        if value is not None:
            # llama.cpp passes over an id beyond the vocabulary, with a warning.
            return value if 0 <= value < len(self.tokens) else None
        default: int | None = getattr(self._rules, name, None)
        if default is None or default >= len(self.tokens):
            return None
        return default if self.kinds[default] in (_Kind.CONTROL, _Kind.UNKNOWN) else None

    def ends(self) -> list[int]:
        """The ids that end a text; that of `eos` is first."""
        found = [self.id_of(name) for name in _END_KEYS]
        found += [self.ids.get(token) for token in sorted(_ENDS)]
        ordinary = {self.ids[token] for token in self._ordinary()}
        return list(dict.fromkeys(i for i in found if i is not None and i not in ordinary))

    def charsmap(self) -> bytes | None:
        """Sentencepiece's table for the normal form of characters."""
        found = self._array("precompiled_charsmap")
        return None if found is None else found.numbers().astype(np.uint8).tobytes()

    def templates(self) -> str | list[dict[str, str]] | None:
        """The chat template, or a list with names where there are several."""
        keys = self.header.metadata
        prefix = "tokenizer.chat_template"
        named = {
            name.removeprefix(f"{prefix}."): text
            for name, text in keys.items()
            if name.startswith(f"{prefix}.")
        }
        if prefix in keys:
            named = {"default": keys[prefix], **named}
        if wrong := [name for name, text in named.items() if not isinstance(text, str)]:
            raise ModelError(f"{self.path}: the chat template {wrong[0]} is no text", DAMAGED)
        if named.keys() <= {"default"}:
            return named.get("default")
        return [{"name": name, "template": text} for name, text in named.items()]


def tokenizer_files(vocabulary: Vocabulary) -> dict[str, bytes]:
    """`tokenizer.json` and `tokenizer_config.json`.

    Raises:
        ModelError: the vocabulary cannot be used.
    """
    v = vocabulary
    made = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_added(v)),
        "post_processor": _post_processor(v),
        **(
            _sentencepiece(v) if v.model == "llama" else _unigram(v) if v.model == "t5" else _bpe(v)
        ),
    }
    text = json.dumps(made, ensure_ascii=False)
    _check(v, text)
    return {"tokenizer.json": text.encode(), "tokenizer_config.json": _settings(v)}


def _check(v: Vocabulary, text: str) -> None:
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_str(text)
    except Exception as error:  # the bindings raise bare Exception
        raise ModelError(
            f"{v.path}: its tokenizer cannot be rebuilt: {' '.join(str(error).split())}",
            "compile the original model with --quantize int4",
        ) from None


def _added(v: Vocabulary) -> Iterable[dict[str, Any]]:
    """Tokens that are found in a text before anything else is."""
    # Per model, since the file does not say it: Phi-3's tokens swallow the blanks after them.
    name = str(v.header.metadata.get("general.name", "")).lower()
    strips = "phi-3" in name or "phi3" in name
    for index, (token, kind) in enumerate(zip(v.tokens, v.kinds, strict=True)):
        if kind in (_Kind.CONTROL, _Kind.USER_DEFINED, _Kind.UNKNOWN):
            yield {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": strips and token not in ("<unk>", "<s>", "<|endoftext|>"),
                "normalized": False,
                "special": kind != _Kind.USER_DEFINED,
            }


def _post_processor(v: Vocabulary) -> dict[str, Any] | None:
    bos, eos = (v.id_of("bos") if v.add_bos else None), (v.id_of("eos") if v.add_eos else None)
    ids = {v.tokens[index]: index for index in (bos, eos) if index is not None}
    if not ids:
        return None

    def sequence(name: str, kind: int) -> list[dict[str, Any]]:
        tokens = [
            {"SpecialToken": {"id": v.tokens[index], "type_id": kind}}
            if index is not None
            else None
            for index in (bos, eos)
        ]
        middle: dict[str, Any] = {"Sequence": {"id": name, "type_id": kind}}
        return [part for part in (tokens[0], middle, tokens[1]) if part is not None]

    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": sequence("A", 0) + sequence("B", 1),
        "special_tokens": {
            token: {"id": token, "ids": [index], "tokens": [token]} for token, index in ids.items()
        },
    }


_TO_BLANK = {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK}
_FROM_BLANK = {"type": "Replace", "pattern": {"String": _BLANK}, "content": " "}


def _sequence(kind: str, parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    return {"type": "Sequence", kind: parts} if parts else None


def _decoder(v: Vocabulary) -> dict[str, Any] | None:
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    parts: list[dict[str, Any]] = [_FROM_BLANK, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return _sequence("decoders", parts + [strip] * v.add_space)


def _merging(v: Vocabulary, merges: list[list[str]], **settings: Any) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": v.ids,
        "merges": merges,
        **settings,
    }


def _bpe(v: Vocabulary) -> dict[str, Any]:
    """Merges by rank, of a text's bytes or characters."""
    split, raw = v.split, v.split.raw
    cuts: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
        for p in split.patterns
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {
        "normalizer": _TO_BLANK if raw else None,
        "pre_tokenizer": _sequence("pretokenizers", cuts + [byte_level] * (not raw)),
        "decoder": _decoder(v) if raw else byte_level,
        "model": _merging(v, v.merges(), ignore_merges=split.ignore_merges, byte_fallback=raw),
    }


def _sentencepiece(v: Vocabulary) -> dict[str, Any]:
    """Merges by score, of a text's characters; what is in no token becomes its bytes."""
    unknown = v.id_of("unknown")
    prefix = {"type": "Prepend", "prepend": _BLANK}
    return {
        "normalizer": _sequence("normalizers", [prefix] * v.add_space + [_TO_BLANK]),
        "pre_tokenizer": None,
        "decoder": _decoder(v),
        "model": _merging(
            v,
            v.merges_of_scores(),
            unk_token=None if unknown is None else v.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def _replace(regex: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": regex}, "content": content}


def _unigram(v: Vocabulary) -> dict[str, Any]:
    """The likeliest tokens of a text by their scores."""
    parts: list[dict[str, Any]] = []
    if (charsmap := v.charsmap()) is not None:
        coded = base64.b64encode(charsmap).decode()
        parts.append({"type": "Precompiled", "precompiled_charsmap": coded})
    removes = v.flag("remove_extra_whitespaces", False)
    if removes:
        parts += [_replace(r"\A +| +\z", ""), _replace(" {2,}", " ")]
    # As in llama.cpp, where each run of blanks becomes the one before a word, the first too.
    if removes or v.add_space:
        parts += [{"type": "Prepend", "prepend": " "}, _replace(r"\A (?= +\z)", "")]
    parts.append(_TO_BLANK)
    pairs = zip(v.tokens, v.scores(), strict=True)
    return {
        "normalizer": _sequence("normalizers", parts),
        "pre_tokenizer": None,
        "decoder": _decoder(v),
        "model": {
            "type": "Unigram",
            "unk_id": v.id_of("unknown"),
            "vocab": [list(pair) for pair in pairs],
            "byte_fallback": False,
        },
    }


def _settings(v: Vocabulary) -> bytes:
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    tokens = {
        f"{short}_token": v.tokens[index]
        for name, short in names.items()
        if (index := v.id_of(name)) is not None
    }
    made = {
        **tokens,
        "add_bos_token": v.add_bos,
        "add_eos_token": v.add_eos,
        "chat_template": v.templates(),
    }
    kept = {name: value for name, value in made.items() if value is not None}
    return json.dumps(kept, ensure_ascii=False, indent=2).encode()
