"""An engine on a compiled model: what is reused, saved or lost gives the tokens of eager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import iree.runtime as rt
import pytest

from edgec.errors import DeviceError
from edgec.runtime import Engine

OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def qwen3(make_pair: Callable[..., Any]) -> Any:
    return make_pair("qwen3")


@pytest.fixture
def engine(qwen3: Any) -> Iterator[Engine]:
    with Engine(qwen3.session.model, memory=1 << 30) as engine:
        yield engine


def test_a_copied_prefix_and_a_restored_sequence(
    qwen3: Any, engine: Engine, tmp_path: Path
) -> None:
    ids = qwen3.ids(150, seed=1)
    first = engine.submit(ids, session_id="a", **OPTIONS).result(60)
    assert first.tokens == tuple(qwen3.greedy(ids, 6))
    other = [*ids[:77], *qwen3.ids(9, seed=2)]
    copied = engine.submit(other, **OPTIONS).result(60)
    assert (copied.usage.cached_tokens, engine.stats().sequences_copied) == (77, 1)
    assert copied.tokens == tuple(qwen3.greedy(other, 6))
    engine.save("a", tmp_path / "a")
    longer = [*ids, *first.tokens, 3]
    with Engine(qwen3.session.model) as fresh:
        assert fresh.restore(tmp_path / "a", "b") >= 155
        result = fresh.submit(longer, session_id="b", **OPTIONS).result(60)
    assert result.usage.cached_tokens >= 155
    assert result.tokens == tuple(qwen3.greedy(longer, 6))


def test_a_failed_submission_ends_that_generation_only(
    qwen3: Any, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program itself refuses a buffer of a wrong shape: a call that truly fails."""
    program = qwen3.session.model.program
    create = program.create_state

    def broken() -> Any:
        state = create()
        buffer = state.views[0].get_buffer()
        state.views[0] = rt.HalBufferView(buffer, [1, 2, 3], int(rt.HalElementType.FLOAT_32))
        return state

    monkeypatch.setattr(program, "create_state", broken)
    with pytest.raises(DeviceError, match="prefill failed at position 0.*shape"):
        engine.submit(qwen3.ids(9), **OPTIONS).result(60)
    monkeypatch.setattr(program, "create_state", create)
    assert engine.stats().state_bytes == 0
    ids = qwen3.ids(40, seed=3)
    assert engine.submit(ids, **OPTIONS).result(60).tokens == tuple(qwen3.greedy(ids, 6))
    assert engine.stats().failed == 1
