"""Small model folders with tokenizers of every kind, for comparison with transformers.

`KINDS` maps a name to a function that makes a `tokenizers.Tokenizer` with `<s>`, `</s>`, `<unk>`
in its vocabulary; `write` puts one into a folder with a configuration beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import ByteLevel, Sequence, TemplateProcessing

__all__ = ["KINDS", "PROCESSORS", "TEXTS", "write"]

SPECIAL = ("<unk>", "<s>", "</s>")
TEXTS = (
    "",
    " ",
    "Hello",
    " Hello  world\n\n\tx ",
    "don't stop , ever . I 've n't",
    "naïve – “quotes” 漢字 🙂 e\u0301",
    "<s>a</s>",
    "a<|tool|>b <|tool|> c",
    "x <pad><img>  y<extra> z",
    "<|word|> in<|word|>side <|WORD|>",
    "1234567 ab12",
)
_WORDS = ("Hello", "world", "stop", "don", "naïve", "quotes", "side", "in", "ever", "not")


def _letters() -> list[str]:
    return [chr(c) for c in range(33, 127)] + list("ïé–“”漢字")


def byte_level(**options: Any) -> Tokenizer:
    """GPT-2, Llama 3, Qwen: bytes as letters, and a few merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("H", "e"), ("l", "l"), ("He", "ll"), ("Hell", "o"), ("Ġ", "w"), ("o", "r")]
    pieces = [*SPECIAL, *alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges))
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, **options)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pieces() -> list[str]:
    words = [f"▁{word}" for word in _WORDS]
    return [*SPECIAL, *(f"<0x{b:02X}>" for b in range(256)), "▁", *words, *_letters()]


def sentencepiece() -> Tokenizer:
    """Llama 2, Gemma: a BPE with ▁ for spaces and bytes for what it does not know."""
    pieces = _pieces()
    for word in _WORDS:
        pieces += [f"▁{word}"[:n] for n in range(2, len(word) + 1)]
    pieces = list(dict.fromkeys(pieces))
    merges = [(f"▁{w}"[:n], f"▁{w}"[n]) for w in _WORDS for n in range(1, len(w) + 1)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [m for m in dict.fromkeys(merges) if m[0] in vocab and m[1] in vocab]
    bpe = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return tokenizer


def metaspace(scheme: str = "first") -> Tokenizer:
    """The same vocabulary with the pre-tokeniser that newer files have."""
    tokenizer = sentencepiece()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme, split=False)
    return tokenizer


def unigram() -> Tokenizer:
    """T5, XGLM: a Unigram model behind a normaliser that drops what it does not need."""
    pieces = [(piece, -2.0 - len(piece) / 100) for piece in dict.fromkeys(_pieces())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    tokenizer.decoder = decoders.Metaspace("▁", "always")
    return tokenizer


def wordpiece() -> Tokenizer:
    """BERT: whole words, continued with ##."""
    continued = [f"##{c}" for c in _letters()]
    pieces = dict.fromkeys([*SPECIAL, *(w.lower() for w in _WORDS), *_letters(), *continued])
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="<unk>", max_input_chars_per_word=50))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "sentencepiece": sentencepiece,
    "metaspace first": metaspace,
    "metaspace always": lambda: metaspace("always"),
    "metaspace never": lambda: metaspace("never"),
    "unigram": unigram,
    "wordpiece": wordpiece,
}


def _template(single: str) -> TemplateProcessing:
    tokens = [("<s>", 1), ("</s>", 2)]
    return TemplateProcessing(single=single, pair=f"{single} $B:1", special_tokens=tokens)


PROCESSORS: dict[str, Any] = {
    "none": None,
    "bos": _template("<s> $A"),
    "bos and eos": _template("<s> $A </s>"),
    "nothing": _template("$A"),
    "byte level": ByteLevel(trim_offsets=False),
    "sequence": Sequence([ByteLevel(trim_offsets=False), _template("<s> $A")]),
}


def write(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    model_type: str = "llama",
    processor: Any = None,
    in_file: tuple[AddedToken, ...] = (),
    **files: Any,
) -> Path:
    """A folder as it is published, without weights.

    Args:
        folder: Where; made.
        tokenizer: With the vocabulary alone.
        model_type: For `config.json`.
        processor: The post-processor.
        in_file: Added tokens of `tokenizer.json`, beside the three special ones.
        files: Contents of `tokenizer_config`, `special_tokens_map`, `added_tokens`, without .json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens(list(in_file))
    if processor is not None:
        tokenizer.post_processor = processor
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
