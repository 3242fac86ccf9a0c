from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from edgec.errors import ArtifactError, InputError
from edgec.runtime import GenerationConfig


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
    ],
)
def test_values_out_of_range_are_named(name: str, value: Any, range_: str) -> None:
    with pytest.raises(InputError) as error:
        GenerationConfig().updated({name: value})
    assert name in str(error.value)
    assert range_ in str(error.value)


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


@pytest.mark.parametrize("data", ["{", "[]", {"temperature": -1}, {"top_k": "many"}])
def test_bad_files_are_named(tmp_path: Path, data: Any) -> None:
    with pytest.raises(ArtifactError, match=r"generation_config\.json"):
        GenerationConfig.from_file(write(tmp_path, data))
