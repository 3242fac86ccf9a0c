"""Narrow weights and cache: how often the best token is that of f32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec import Session
from edgec.artifact import Artifact


@pytest.mark.parametrize(("dtype", "agreement"), [("f16", 0.99), ("bf16", 0.95)])
def test_top_token(make_pair: Callable[..., Any], dtype: str, agreement: float) -> None:
    pair = make_pair("qwen3", dtype)
    ids = pair.ids(300, seed=11)
    expected = pair.eager_logits(ids).argmax(axis=-1)
    pair.session.reset()
    found = [pair.session.prefill(ids[:1]).argmax()]
    found += [pair.session.decode(token).argmax() for token in ids[1:]]
    assert np.mean(np.array(found) == expected) >= agreement


def test_bundled_f16(
    tiny_dense_artifact: Artifact, compile_once: Callable[..., Artifact], repository: Path
) -> None:
    """On text that the model was trained for, after every token of a window."""
    sessions = [
        Session(artifact)
        for artifact in (
            tiny_dense_artifact,
            # The same that tests/targets compiles.
            compile_once(
                "tiny-both-f16",
                "bundled:tiny-dense",
                target="cpu,vulkan:llvmpipe",
                dtype="f16",
                chunk_size=64,
            ),
        )
    ]
    text = (repository / "models" / "bundled" / "tiny-dense" / "heldout.txt").read_text()
    ids = sessions[0].encode(text[:3000])[:512]
    best = [[int(session.decode(token).argmax()) for token in ids] for session in sessions]
    assert np.mean(np.equal(*best)) >= 0.99
