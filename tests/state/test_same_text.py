"""The same request gives the same numbers, bit for bit, whatever a state held of it before."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.moe import parity
from tests.state import families, test_rings

import edgec
from edgec.artifact import Artifact
from edgec.runtime import Engine, LoadedModel, Session
from edgec.runtime.sequence import Sequence

LENGTHS = (20, 32, 33, 64, 65, 100, 257, 300)


def ids(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count,), generator=generator).tolist()


def logits(sequence: Sequence, prompt: list[int]) -> Any:
    """Logits by the calls of a session or an engine; then an answer."""
    cached = sequence.keep(prompt)
    found = sequence.extend(prompt[cached:], checkpoint=True).logits()
    for token in ids(13, 1):
        sequence.step(token)
    return found


def check(session: Session) -> None:
    for length in LENGTHS:
        prompt = ids(length, length)
        sequence = session.share().sequence
        expected = logits(sequence, prompt)
        assert np.array_equal(logits(sequence, prompt), expected), length
        assert sequence.reusable(prompt) == (length - 1) // 32 * 32
        for common in {1, 32, 50, 90, 256, length - 1}:
            if common < length:
                other = session.share().sequence
                logits(other, [*prompt[:common], *ids(70, 7)])
                assert np.array_equal(logits(other, prompt), expected), (length, common)
        # A follow-up goes on from the answer as it was decoded; the second time too.
        longer = [*prompt, *ids(13, 1), *ids(21, 2)]
        expected = logits(sequence, longer)
        assert np.array_equal(logits(sequence, longer), expected), length


def test_prompts_that_begin_alike(tiny_dense_artifact: Artifact) -> None:
    check(Session(tiny_dense_artifact))


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_of_quantised_weights(compile_once: Callable[..., Artifact], quantize: str) -> None:
    """The places at which the last bits of a sum decide how the next input is rounded."""
    artifact = compile_once(
        f"same-{quantize}", "bundled:tiny-dense", target="cpu", ctx_size=384, quantize=quantize
    )
    check(Session(artifact))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3_next", "granitemoehybrid", "mamba2", "gemma3_text"])
def test_of_other_kinds_of_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Recurrences, convolutions and rings, which are gone back to by a checkpoint."""
    if family in families.FAMILIES:
        families.make(tmp_path / "model", family)
    else:
        parity.make(tmp_path / "model", family, test_rings.FAMILIES[family])
    edgec.compile(
        str(tmp_path / "model"), output=tmp_path / "model.edgec", ctx_size=384, chunk_size=64
    )
    check(Session(tmp_path / "model.edgec"))


def test_requests_of_an_engine(tiny_dense_artifact: Artifact) -> None:
    """Continued, copied while another runs or not, and with nothing reused."""
    model = LoadedModel.load(tiny_dense_artifact)
    options: dict[str, Any] = {
        "max_new_tokens": 8, "temperature": 0, "ignore_eos": True, "logprobs": 3,
    }  # fmt: skip

    def numbers(request: Any) -> list[Any]:
        return [(chunk.token, chunk.logprobs) for chunk in request]

    for length in (33, 40, 64, 257):
        prompt = ids(length, length)
        with Engine(model) as engine:
            expected = numbers(engine.submit(prompt, cache_prompt=False, **options))
            assert all(math.isfinite(given.token) for _, given in expected)
            requests = [engine.submit(prompt, **options) for _ in range(3)]
            requests.append(engine.submit([*prompt, 5, 6, 7], **options))
            found = [numbers(request) for request in requests]
            assert found[:3] == [expected] * 3
            again = engine.submit(prompt, **options)
            assert numbers(again) == expected
            assert again.result().usage.cached_tokens == (length - 1) // 32 * 32
