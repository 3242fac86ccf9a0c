from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, processors
from tokenizers import Tokenizer as HFTokenizer

from edgec.errors import ArtifactError
from edgec.runtime.tokenizer import Detokenizer, Tokenizer


def streamed(tokenizer: Tokenizer, tokens: list[int], prompt: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt or [])
    return [*(detokenizer.add(token) for token in tokens), detokenizer.finish()]


@given(text=st.text(max_size=40), prompt=st.text(max_size=12))
@settings(deadline=None)
def test_stream_is_the_text_and_splits_no_character(
    tokenizer: Tokenizer, text: str, prompt: str
) -> None:
    pieces = streamed(tokenizer, tokenizer.encode(text), tokenizer.encode(prompt))
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(data=st.binary(max_size=30))
@settings(deadline=None)
def test_bytes_that_are_no_text_stream_as_they_decode(tokenizer: Tokenizer, data: bytes) -> None:
    assert "".join(streamed(tokenizer, list(data))) == tokenizer.decode(list(data))


def test_a_character_appears_with_its_last_byte(tokenizer: Tokenizer) -> None:
    assert streamed(tokenizer, list("a€b".encode())) == ["a", "", "", "€", "b", ""]


def test_a_character_cut_short_shows_at_the_end(tokenizer: Tokenizer) -> None:
    assert streamed(tokenizer, list("a€".encode()[:3])) == ["a", "", "", "\ufffd"]


def test_a_character_that_the_prompt_began(tokenizer: Tokenizer) -> None:
    first, *rest = "é!".encode()
    assert "".join(streamed(tokenizer, list(rest), [first])) == "é!"


def test_special_tokens_have_no_text(tokenizer: Tokenizer) -> None:
    assert streamed(tokenizer, [104, 256, 105]) == ["h", "", "i", ""]
    assert tokenizer.decode([104, 256], skip_special_tokens=False) == "h<|end|>"
    assert tokenizer.special_id("<|end|>") == 256
    assert tokenizer.special_id("h") is None
    assert tokenizer.eos_token_id == 256


def test_ids_beyond_the_tokenizer_have_no_text(tokenizer: Tokenizer) -> None:
    assert streamed(tokenizer, [104, 5000, 105]) == ["h", "", "i", ""]


@pytest.fixture
def sentencepiece(tmp_path: Path) -> Path:
    """A tokenizer as Llama's: ▁ for a space, the first one dropped, bytes as a fallback."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "▁a", "▁b", "c"]
    tokenizer = HFTokenizer(
        models.BPE(
            vocab={word: i for i, word in enumerate(words)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
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
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in words[:3]])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_spaces_between_words_survive_a_decoder_that_strips_the_first(sentencepiece: Path) -> None:
    tokenizer = Tokenizer(sentencepiece)
    a, b, c = (tokenizer.id_of(word) for word in ("▁a", "▁b", "c"))
    assert a and b and c
    assert streamed(tokenizer, [a, b, c, a]) == ["a", " b", "c", " a", ""]
    # After a prompt the first word is not the first.
    assert streamed(tokenizer, [b, c], prompt=[a]) == [" b", "c", ""]
    assert streamed(tokenizer, [b, 3 + 0xC3, 3 + 0xA9, c], [a]) == [" b", "", "é", "c", ""]


def configured(folder: Path, **config: object) -> Tokenizer:
    settings_ = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings_))
    return Tokenizer(folder)


def test_only_the_post_processor_adds_tokens(sentencepiece: Path) -> None:
    """The rule of transformers 5; tests/tokenizer compares with it."""
    plain = configured(sentencepiece).encode("a")
    assert 1 not in plain
    assert configured(sentencepiece, add_bos_token=True).encode("a") == plain
    path = sentencepiece / "tokenizer.json"
    made = HFTokenizer.from_file(str(path))
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="$A $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    made.save(str(path))
    flags = configured(sentencepiece, add_bos_token=False, add_eos_token=False)
    assert flags.encode("a") == [1, *plain, 2]
    assert flags.encode("a", add_special_tokens=False) == plain
    assert flags.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_a_stored_truncation_does_not_cut_prompts(sentencepiece: Path) -> None:
    path = sentencepiece / "tokenizer.json"
    data = json.loads(path.read_text())
    data["truncation"] = {
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    path.write_text(json.dumps(data))
    assert len(Tokenizer(sentencepiece).encode("c" * 9)) >= 9


def test_missing_and_broken_files_are_named(tmp_path: Path, tokenizer_folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: cannot be read"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ArtifactError, match=r"tokenizer_config\.json: must be a JSON object"):
        Tokenizer(tmp_path)
