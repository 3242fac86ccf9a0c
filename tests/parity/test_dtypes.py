"""Narrow weights and cache: how often the best token is that of f32, and the error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize(("kv_dtype", "most"), [("f16", 1e-3), ("int8", 2e-2)])
def test_narrow_cache(
    tmp_path_factory: pytest.TempPathFactory,
    compile_once: Callable[..., Any],
    write_model: Callable[..., Any],
    relative_error: Callable[..., float],
    kv_dtype: str,
    most: float,
) -> None:
    """A cache in f16 or int8 beside f32 weights, filled by prefill, follow-up and decode."""
    folder = tmp_path_factory.mktemp(kv_dtype)
    eager = write_model(folder, "qwen3")
    name = f"parity-qwen3-kv-{kv_dtype}"
    artifact = compile_once(name, str(folder), kv_dtype=kv_dtype, ctx_size=320, chunk_size=128)
    ids = torch.randint(0, 256, (300,), generator=torch.Generator().manual_seed(12)).tolist()
    with torch.no_grad():
        expected = eager(torch.tensor([ids])).logits[0].float().numpy()
    session = Session(artifact)
    errors = [relative_error(session.prefill(ids[:100]), expected[99])]
    errors.append(relative_error(session.prefill(ids[100:280]), expected[279]))
    errors += [relative_error(session.decode(ids[i]), expected[i]) for i in range(280, 300)]
    print(f"{kv_dtype}: {max(errors):.1e} of the logits' range")
    # Rounding shows, and shows that the narrow cache is read.
    assert 1e-6 < max(errors) <= most
