"""The harness notices what it is there to notice, and takes up where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgec.coverage import check as checking
from edgec.coverage.result import EXACT, FAILS, NOT_TEXT, Result, Results, sources
from edgec.coverage.run import run
from edgec.coverage.table import page
from edgec.models.tiny import causal_families, not_a_text_decoder, tiny_config

VERSIONS = {"transformers": "1", "torch": "2", "iree": "3"}


def test_every_family_is_listed() -> None:
    assert len(causal_families()) == 189
    assert not_a_text_decoder("gemma3") and not not_a_text_decoder("gemma3_text")


@pytest.mark.parametrize("family", ["gemma3_text", "gpt_oss", "cohere2"])
def test_each_kind_of_layer_is_there(family: str) -> None:
    config = tiny_config(family)
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert config.num_hidden_layers == len(config.layer_types) <= 4
    assert config.sliding_window < 70


def test_a_wrong_model_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager with other weights than those that were compiled."""
    eager = checking._eager
    calls = []

    def other(model: Any, ids: list[int]) -> Any:
        calls.append(len(ids))
        if len(calls) == 2:  # after the one that only tries whether eager runs
            with torch.no_grad():
                model.lm_head.weight[0] += 0.1
        return eager(model, ids)

    monkeypatch.setattr(checking, "_eager", other)
    result = checking.check("llama")
    assert result.status == FAILS
    assert result.stage == "prefill 1" and "logits differ" in result.message


def test_errors_are_in_units_of_the_range() -> None:
    expected = np.array([0.0, 10.0], np.float32)
    assert checking._error(np.array([0.0, 10.0005], np.float32), expected) < 1e-4
    with pytest.raises(checking._Mismatch, match="logits differ by"):
        checking._error(np.array([0.0, 10.002], np.float32), expected)
    with pytest.raises(checking._Mismatch, match="not finite"):
        checking._error(np.array([0.0, np.nan], np.float32), expected)


def test_what_is_known_is_not_run_again(tmp_path: Path) -> None:
    results = Results(tmp_path)
    known = Result("llama", "cpu", EXACT, error=1e-6, sources=sources())
    results.write(known)
    assert run(["llama"], results) == [known]


def test_other_code_makes_a_result_stale(tmp_path: Path) -> None:
    """A family that needs no compiling is looked at again, in a process of its own."""
    results = Results(tmp_path)
    results.write(Result("git", "cpu", EXACT, error=0.0, sources="older"))
    (found,) = run(["git"], results)
    assert found.status == NOT_TEXT and found.sources == sources()
    assert results.read("git", "cpu") == found


def test_the_page_has_every_family() -> None:
    found = [
        Result("llama", "cpu", EXACT, error=3e-7, state=("attention",), attention="operator"),
        Result("rwkv", "cpu", FAILS, "load", "no | such state"),
        Result("git", "cpu", NOT_TEXT, message="images"),
    ]
    other = Result("llama", "vulkan:llvmpipe", EXACT, error=4e-7, state=("attention",))
    text = page(found, [other], VERSIONS)
    assert "3 families: 1 exact, 1 fail, 1 are no decoders of text alone" in text
    for line in (
        "| llama | attention | operator | 3e-07 |",
        "| rwkv | load | no \\| such state |",
        "| git | images |",
        "| llama | vulkan:llvmpipe | attention | exact, 4e-07 |",
    ):
        assert line in text.splitlines()
