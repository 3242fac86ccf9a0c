from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.errors import ArtifactError, InputError
from edgec.runtime import GenerationConfig
from edgec.runtime.model import _defaults
from edgec.runtime.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("name", "value", "range_"),
    [
        ("max_new_tokens", 0, "at least 1"),
        ("max_new_tokens", 2.5, "at least 1"),
        ("min_new_tokens", -1, "at least 0"),
        ("temperature", -0.1, "at least 0"),
        ("temperature", float("nan"), "at least 0"),
        ("temperature", "hot", "at least 0"),
        ("top_k", -1, "at least 0"),
        ("top_k", True, "at least 0"),
        ("top_p", 1.01, "from 0 to 1"),
        ("top_p", -0.01, "from 0 to 1"),
        ("min_p", 2, "from 0 to 1"),
        ("repetition_penalty", 0, "above 0"),
        ("repetition_penalty", float("inf"), "above 0"),
        ("max_time", 0, "above 0"),
        ("seed", -3, "at least 0"),
        ("stop_strings", ["ok", ""], "not empty"),
        ("stop_strings", [3], "not empty"),
        ("eos_token_id", [-1], "at least 0"),
        ("do_sample", 1, "true or false"),
        ("ignore_eos", "no", "true or false"),
        ("temperature", 10**400, "at least 0"),
        ("temperature", -(10**400), "at least 0"),
        ("max_time", 10**400, "above 0"),
        ("max_new_tokens", -2, "at least 1"),
        ("stop_strings", 5, "must be text, or a list of texts"),
        ("stop_strings", b"x", "must be text"),
        ("stop_strings", {"a": 1}, "must be text"),
        ("stop_strings", False, "must be text"),
        ("stop_strings", [None], "not empty"),
        ("eos_token_id", 1.5, "a token id, or a list of ids"),
        ("eos_token_id", "2", "a token id, or a list of ids"),
        ("eos_token_id", [1.5], "at least 0"),
        ("eos_token_id", [[1]], "at least 0"),
        ("eos_token_id", True, "at least 0"),
        ("eos_token_id", {"a": 10**5000}, "a token id"),
    ],
)
def test_values_out_of_range_are_named(name: str, value: Any, range_: str) -> None:
    with pytest.raises(InputError) as error:
        GenerationConfig().updated({name: value})
    assert name in str(error.value)
    assert range_ in str(error.value)


@pytest.mark.parametrize("name", ["top_p", "max_new_tokens", "seed", "temperature", "stop_strings"])
def test_numbers_too_long_to_be_shown_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}=\(a number of 16610 bits\)"):
        GenerationConfig().updated({name: 10**5000})


def test_min_new_tokens_must_fit_in_max_new_tokens() -> None:
    with pytest.raises(InputError, match="min_new_tokens=5"):
        GenerationConfig(max_new_tokens=4, min_new_tokens=5)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("temprature", "temperature"),
        ("max_tokens", "max_new_tokens"),
        ("stop", "stop_strings"),
        ("repeat_penalty", "repetition_penalty"),
        ("topk", "top_k"),
    ],
)
def test_unknown_names_are_refused_with_the_likely_one(wrong: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"'{wrong}'.*did you mean {meant}\?"):
        GenerationConfig().updated({wrong: 1})


def test_unlike_names_get_the_list() -> None:
    with pytest.raises(InputError, match=r"known: max_new_tokens, .*ignore_eos"):
        GenerationConfig().updated({"xyzzy": 1})


def test_none_means_not_given() -> None:
    config = GenerationConfig(temperature=0.5)
    assert config.updated({"temperature": None, "seed": None}) == config


@pytest.mark.parametrize(
    ("options", "greedy"),
    [
        ({}, True),
        ({"temperature": 0.8}, False),
        ({"temperature": 0}, True),
        ({"top_p": 0.9}, False),
        ({"seed": 1}, True),
        ({"do_sample": True}, False),
        ({"do_sample": True, "temperature": 0}, True),
        ({"do_sample": False, "temperature": 0.8}, True),
    ],
)
def test_when_sampling_is_asked_for(options: dict[str, Any], greedy: bool) -> None:
    assert GenerationConfig().updated(options).greedy is greedy


def test_single_values_become_tuples() -> None:
    config = GenerationConfig().updated({"stop_strings": "\n", "eos_token_id": 3})
    assert config.stop_strings == ("\n",)
    assert config.eos_token_id == (3,)


def write(folder: Path, data: Any) -> Path:
    path = folder / "generation_config.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_defaults_come_from_the_model(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "eos_token_id": [5, 6],
            "do_sample": True,
            "temperature": 0.6,
            "top_k": None,
            "pad_token_id": 5,
            "transformers_version": "5",
            "num_beams": 1,
        },
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = GenerationConfig.from_file(path)
    assert config == GenerationConfig(eos_token_id=(5, 6), do_sample=True, temperature=0.6)


def test_what_edgec_does_not_have_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, {"num_beams": 4, "no_repeat_ngram_size": 3, "typical_p": 1.0})
    with pytest.warns(UserWarning, match=r"no no_repeat_ngram_size, num_beams$"):
        GenerationConfig.from_file(path)


@pytest.mark.parametrize(
    "data",
    [
        "{", "[]", {"temperature": -1}, {"top_k": "many"}, {"temperature": 10**400},
        {"stop_strings": 5}, {"eos_token_id": 1.5}, {"eos_token_id": [1.5]}, '{"top_p": NaN}',
        '{"temperature": 1e999}', "[" * 100_000, '{"seed": ' + "9" * 5000 + "}",
    ],
)  # fmt: skip
def test_bad_files_are_named(tmp_path: Path, data: Any) -> None:
    with pytest.raises(ArtifactError, match=r"generation_config\.json"):
        GenerationConfig.from_file(write(tmp_path, data))


EXTREMES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3),
    st.binary(max_size=3), st.just(object()),
    st.sampled_from([10**400, -(10**400), 10**5000, 1e-320, 5e-324, 2**63, 2**64]),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=2)), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)  # fmt: skip
NAMES = [field.name for field in dataclasses.fields(GenerationConfig)]


@given(st.sampled_from(NAMES), EXTREMES)
@settings(deadline=None, max_examples=400)
def test_any_value_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    try:
        config = GenerationConfig().updated({name: value})
    except InputError as error:
        assert f"{name}=" in str(error)
        assert len(str(error)) < 500
    else:
        taken = getattr(config, name)
        assert value is None or taken == (tuple(value) if isinstance(value, list) else taken)


@pytest.mark.parametrize(
    ("stated", "own", "ends"),
    [
        (None, "<|end|>", (256,)),
        (257, "<|end|>", (257, 256)),
        ([258, 256], "<|end|>", (258, 256)),
        ([257, 258], None, (257, 258)),
        (None, None, ()),
    ],
)
def test_both_ends_of_a_text_count(
    tokenizer_folder: Path, tmp_path: Path, stated: Any, own: str | None, ends: tuple[int, ...]
) -> None:
    """The union of generation_config.json and the tokenizer's, as in llama.cpp, vLLM and mlx."""
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": own}))
    if stated is not None:
        write(tmp_path, {"eos_token_id": stated})
    assert _defaults(tmp_path, Tokenizer(tmp_path)).eos_token_id == ends
