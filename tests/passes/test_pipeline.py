"""Pipelines as values, and as the text that the manifest and `edgec-opt` have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgec.compiler.targets import parse_targets
from edgec.passes import INPUT_PIPELINE, PASSES, STREAM_PIPELINE, TORCH_PIPELINE, Pipeline


@pytest.mark.parametrize("kind", ["cpu", "cpu:cortex-a76", "vulkan:llvmpipe", "cuda"])
def test_text_and_back(kind: str) -> None:
    (target,) = parse_targets(kind)
    for pipeline in (target.torch_pipeline, target.input_pipeline, target.stream_pipeline):
        assert Pipeline.parse(str(pipeline)) == pipeline
        assert {spec.name for spec in pipeline.passes} <= set(PASSES)


def test_changes() -> None:
    pipeline = Pipeline.parse("a{x=1 y=z},b")
    assert str(pipeline.with_options("a", x=2, w="v")) == "a{x=2 y=z w=v},b"
    assert str(pipeline.with_options("b", n=1)) == "a{x=1 y=z},b{n=1}"
    assert str(pipeline.without("a")) == "b"
    assert str(pipeline.after("a", "c", k="1/2")) == "a{x=1 y=z},c{k=1/2},b"
    assert str(pipeline.then("c", k=1).then("d")) == "a{x=1 y=z},b,c{k=1},d"
    assert str(pipeline) == "a{x=1 y=z},b"


@pytest.mark.parametrize(
    "change",
    [
        lambda pipeline: pipeline.with_options("lower-linaer", form="cpu"),
        lambda pipeline: pipeline.without("lower-linaer"),
        lambda pipeline: pipeline.after("lower-linaer", "a"),
    ],
)
def test_a_change_of_no_pass_fails(change: Callable[[Pipeline], Any]) -> None:
    for pipeline in (TORCH_PIPELINE, INPUT_PIPELINE, STREAM_PIPELINE):
        with pytest.raises(ValueError, match="no pass lower-linaer"):
            change(pipeline)
