"""Each family with state beyond attention, tiny and random, against transformers eager."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.state.families import FAMILIES, TOLERANCE, check

# One of each kind of state; the others run with the slow tests.
_QUICK = ("lfm2_moe", "qwen3_next", "mamba")


@pytest.mark.parametrize(
    "family", [f if f in _QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
def test_parity(tmp_path: Path, family: str) -> None:
    """Prompts around the multiple and of several chunks, decoding, a follow-up, decoding."""
    assert check(tmp_path, family) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.vulkan
@pytest.mark.xdist_group("vulkan")
def test_parity_on_vulkan(tmp_path: Path) -> None:
    assert check(tmp_path, "lfm2_moe", target="vulkan:llvmpipe") <= TOLERANCE
