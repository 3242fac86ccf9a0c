"""Small vocabularies of every form that a GGUF file can have, and text that is awkward to cut."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
from tests.models.gguf.files import write_vocabulary
from transformers.convert_slow_tokenizer import bytes_to_unicode

from edgec.models.gguf.splits import SPLITS

__all__ = ["TEXTS", "write_all"]

_Kind = gguf.TokenType
_BLANK = "\u2581"

TEXTS = (
    "",
    "Hello world",
    "  Hello  world ",
    " ",
    " " * 5,
    " " * 37 + "x",
    "a  b   c    d",
    "\tfoo\t\tbar\nbaz\r\n\r\n  x",
    "x\tfoo",
    "\n\n\n\n a\n ",
    "I'm you'LL we've 'S don't DON'T",
    "1 12 123 1234 12345678 3.14 1,000,000",
    "def f(x):\n    return x**2  # comment\n",
    "http://a.b/c?d=e&f=%20 <html><b>",
    "!!!???...---=== (a) [b] {c} $5 +6",
    "camelCaseXML ABCdefGHI snake_case",
    "\u4f60\u597d,\u4e16\u754c!\u65e5\u672c\u8a9e\u30c6\u30b9\u30c8\ud55c\uad6d\uc5b4",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 ok",
    "\xe9migr\xe9 na\xefve Stra\xdfe \xc0\xc9",
    "abc\u4f60\u597ddef \u30c6x camel's CAMEL'S 'made 'made 'Sure x'y",
    "a\n\nb \n\n c\r\n\r\nd.\n\ne/\n/f",
    "x     y          z\t\t\t\tw",
    "#include <a.h> (foo) -bar @baz .qux; a+b=c ^d |e ~f `g`",
    "e\u0301a\u0300 o\u0308",
    "\u0391\u0392\u0393 \u0430\u0431\u0432",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e44\u0e17\u0e22 \u0639\u0631\u0628\u0649",
    "\ufb01 \xbd \xb2 \u2167",
    "\xa0nbsp\u3000wide\u2003em",
    "\ufeffBOM",
    "<s>Hello</s> x<|im_start|>user\nhi<|im_end|>\n",
    "<unk><pad> <0x41> <think>yes</think>  <tool>",
)

_CORPUS = (
    "Hello world, hello the world's end. I'm here; you're there, we've been, don't go! "
    "def f(x):\n    return x**2  # comment\n\n\n  for i in range(1234):\n"
    "\t\tprint(12345678, 3.14)\n"
    "1,000,000 and 123 and 12 and 2024-11-25 ... --- === !!! ??? http://a.b/c?d=e&f=%20 $5 +6\n"
    "camelCaseXML ABCdefGHI snake_case        a  b   c    d\r\n\r\n \tfoo\tbar\n \n\n "
    "\xe9migr\xe9 na\xefve Stra\xdfe \u4f60\u597d\u4e16\u754c \u65e5\u672c\u8a9e\u30c6\u30b9\u30c8 "
    "\ud55c\uad6d\uc5b4 \u0391\u0392\u0393 \u0430\u0431\u0432 \U0001f600 <html><b> (a) [b] {c} "
)

_CONTROL = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")
_USER = ("<think>", "</think>", "<tool>")


def _joined(text: str, count: int) -> list[tuple[str, str]]:
    """The pairs that are most frequent, one after the other: a byte-pair training.

    It sees twelve characters at a time, cut anywhere.
    """
    parts = [list(text[start : start + 12]) for start in range(0, len(text), 5)]
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs = Counter(pair for part in parts for pair in itertools.pairwise(part))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for index, part in enumerate(parts):
            made: list[str] = []
            for piece in part:
                if made and (made[-1], piece) == best:
                    made[-1] += piece
                else:
                    made.append(piece)
            parts[index] = made
    return merges


def _tokens(
    ordinary: list[str], first: list[tuple[str, Any]] | None = None
) -> dict[str, list[Any]]:
    """The lists of tokens and their types: `first`, ordinary ones, those of control and users'."""
    kinds = [*(first or [])]
    kinds += [(token, _Kind.NORMAL) for token in ordinary]
    have = {token for token, _ in kinds}
    kinds += [(token, _Kind.CONTROL) for token in _CONTROL if token not in have]
    kinds += [(token, _Kind.USER_DEFINED) for token in _USER]
    kinds += [("<|unused|>", _Kind.UNUSED)]
    return {
        "tokenizer.ggml.tokens": [token for token, _ in kinds],
        "tokenizer.ggml.token_type": [int(kind) for _, kind in kinds],
    }


def _byte_level() -> dict[str, Any]:
    spelling = bytes_to_unicode()
    # Trained on text that nothing has cut, so that how it is cut shows.
    text = "".join(spelling[byte] for byte in ("".join(TEXTS) + _CORPUS).encode())
    merges = _joined(text, 900)
    made = list(dict.fromkeys(["".join(pair) for pair in merges]))
    # One that no merges give: only rules that ignore merges find it.
    return {
        "tokenizer.ggml.model": "gpt2",
        **_tokens([*spelling.values(), *made, "\u0120comment"]),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
    }


def _sentencepiece() -> dict[str, Any]:
    merges = _joined((_CORPUS * 2).replace(" ", _BLANK).replace("\n", _BLANK), 220)
    made = list(dict.fromkeys(["".join(pair) for pair in merges]))
    alphabet = sorted({c for c in _CORPUS if c.isalnum() and c.isascii()} | set(_BLANK + ".,\xe9"))
    special = [("<unk>", _Kind.UNKNOWN), ("<s>", _Kind.CONTROL), ("</s>", _Kind.CONTROL)]
    first = special + [(f"<0x{byte:02X}>", _Kind.BYTE) for byte in range(256)]
    usable = [token for token in made if set(token) <= set(alphabet)]
    ordinary = [*usable, *alphabet]
    scores = [0.0] * len(first) + [-float(place) for place in range(len(ordinary))]
    tokens = _tokens(ordinary, first)
    scores += [0.0] * (len(tokens["tokenizer.ggml.tokens"]) - len(scores))
    return {"tokenizer.ggml.model": "llama", **tokens, "tokenizer.ggml.scores": scores}


def _unigram() -> dict[str, Any]:
    made = _sentencepiece()
    tokens, kinds = made["tokenizer.ggml.tokens"], made["tokenizer.ggml.token_type"]
    kept = [i for i, kind in enumerate(kinds) if kind != _Kind.BYTE]
    scores = [-2.0 - i / 50 if kinds[i] == _Kind.NORMAL else 0.0 for i in kept]
    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": [tokens[i] for i in kept],
        "tokenizer.ggml.token_type": [kinds[i] for i in kept],
        "tokenizer.ggml.scores": scores,
    }


def _raw() -> dict[str, Any]:
    """Merges by rank over characters, as Gemma 4's."""
    made = _sentencepiece()
    have = set(made["tokenizer.ggml.tokens"])
    text = (_CORPUS * 2).replace(" ", _BLANK).replace("\n", _BLANK)
    merges = [pair for pair in _joined(text, 220) if {*pair, "".join(pair)} <= have]
    kept = {k: v for k, v in made.items() if not k.endswith("scores")}
    return {
        **kept,
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
    }


def _forms() -> dict[str, dict[str, Any]]:
    bytes_, pieces, unigram = _byte_level(), _sentencepiece(), _unigram()
    key = "tokenizer.ggml"

    def ids(made: dict[str, Any], **names: str) -> dict[str, Any]:
        tokens = made[f"{key}.tokens"]
        return {f"{key}.{name}_token_id": tokens.index(token) for name, token in names.items()}

    ends = ids(bytes_, bos="<s>", eos="</s>")
    forms = {
        f"bpe {name}": {**bytes_, **ends, f"{key}.pre": name}
        for name, split in SPLITS.items()
        if not split.raw
    }
    flags: dict[str, dict[str, Any]] = {
        "": {},
        "no space": {f"{key}.add_space_prefix": False},
        "space": {f"{key}.add_space_prefix": True},
        "no bos": {f"{key}.add_bos_token": False},
        "eos": {f"{key}.add_eos_token": True},
        "spaces kept": {f"{key}.remove_extra_whitespaces": False},
        "spaces removed": {f"{key}.remove_extra_whitespaces": True},
        "removed without space": {
            f"{key}.remove_extra_whitespaces": True,
            f"{key}.add_space_prefix": False,
        },
    }
    for said, flag in flags.items():
        forms[f"sentencepiece {said}"] = {**pieces, **flag}
        forms[f"unigram {said}"] = {**unigram, **flag, **ids(unigram, eos="</s>", unknown="<unk>")}
    forms["unigram bos"] = {
        **unigram,
        **ids(unigram, bos="<s>", eos="</s>", unknown="<unk>"),
        f"{key}.add_bos_token": True,
    }
    forms["sentencepiece eot"] = {**pieces, **ids(pieces, eot="<think>", eom="<tool>")}
    forms["bpe no pre"] = {**bytes_, **ends}
    forms["bpe bos"] = {**bytes_, **ends, f"{key}.pre": "gpt-2", f"{key}.add_bos_token": True}
    forms["bpe eos"] = {**bytes_, **ends, f"{key}.pre": "gpt-2", f"{key}.add_eos_token": True}
    forms["bpe no bos"] = {
        **bytes_, **ends, f"{key}.pre": "llama-bpe", f"{key}.add_bos_token": False,
    }  # fmt: skip
    raw = _raw()
    forms["raw gemma4"] = {**raw, **ids(raw, bos="<s>", eos="</s>", unknown="<unk>")}
    forms["raw sarvam"] = {
        **forms["raw gemma4"], f"{key}.model": "gpt2", f"{key}.pre": "sarvam-moe",
    }  # fmt: skip
    return forms


def write_all(folder: Path) -> dict[str, Path]:
    """Writes every form; their files by name."""
    return {
        name: write_vocabulary(folder / f"{name.replace(' ', '-')}.gguf", metadata)
        for name, metadata in _forms().items()
    }
