"""Narrow weights and cache: how often the best token is that of f32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.mark.parametrize(("dtype", "agreement"), [("f16", 0.99), ("bf16", 0.95)])
def test_top_token(make_pair: Callable[..., Any], dtype: str, agreement: float) -> None:
    pair = make_pair("qwen3", dtype)
    ids = pair.ids(300, seed=11)
    expected = pair.eager_logits(ids).argmax(axis=-1)
    pair.session.reset()
    found = [pair.session.prefill(ids[:1]).argmax()]
    found += [pair.session.decode(token).argmax() for token in ids[1:]]
    assert np.mean(np.array(found) == expected) >= agreement
