"""A tokenizer of bytes, for models with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgec.errors import InputError

__all__ = ["SPECIAL_IDS", "byte_tokenizer_files"]

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT, _, IM_END = range(256, 259)
SPECIAL_IDS = {
    "bos_token_id": END_OF_TEXT,
    "eos_token_id": END_OF_TEXT,
    "pad_token_id": END_OF_TEXT,
}
"""What a configuration says about the special tokens of `byte_tokenizer_files`."""

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def byte_tokenizer_files(vocab_size: int) -> dict[str, bytes | Path]:
    """A tokenizer for models with random weights, as the files of a Hugging Face folder.

    Text is encoded byte by byte: ids 0 to 255 are the bytes, the next three are the special
    tokens. Random weights give any id of the vocabulary, so that the others decode to made-up
    words; no text encodes to them.

    Args:
        vocab_size: The number of ids, at least 259.

    Raises:
        InputError: `vocab_size` is too small.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    first_word = 256 + len(SPECIALS)
    if vocab_size < first_word:
        raise InputError(f"vocabulary of {vocab_size}: a byte tokenizer needs {first_word}")
    vocab = {character: byte for byte, character in enumerate(_byte_characters())}
    vocab |= {name: 256 + i for i, name in enumerate(SPECIALS)}
    vocab |= {"Ġ" + _word(i): first_word + i for i in range(vocab_size - first_word)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": SPECIALS[0],
        "pad_token": SPECIALS[0],
        "unk_token": None,
        "add_bos_token": False,
        "additional_special_tokens": list(SPECIALS[1:]),
        "clean_up_tokenization_spaces": False,
    }
    generation_config = {
        "do_sample": False,
        "eos_token_id": [END_OF_TEXT, IM_END],
        "pad_token_id": END_OF_TEXT,
    }
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": _json(tokenizer_config),
        "chat_template.jinja": CHAT_TEMPLATE.encode(),
        "generation_config.json": _json(generation_config),
    }


def _byte_characters() -> list[str]:
    """The characters that byte-level tokenizers write the bytes 0 to 255 with.

    GPT-2's table: printable Latin-1 characters stand for themselves, the others for characters
    from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _word(number: int) -> str:
    """A made-up word of one or more syllables, another for each number."""
    consonants, vowels = "bdfghjklmnprstvz", "aeiou"
    word = ""
    number += 1
    while number:
        number, syllable = divmod(number - 1, len(consonants) * len(vowels))
        word += consonants[syllable // len(vowels)] + vowels[syllable % len(vowels)]
    return word


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
