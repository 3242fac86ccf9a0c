"""Each family with state beyond attention, tiny and random, against transformers eager."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.state.families import TOLERANCE, check


@pytest.mark.parametrize("family", ["lfm2"])
def test_parity(tmp_path: Path, family: str) -> None:
    assert check(tmp_path, family) <= TOLERANCE
