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
    assert (copied.usage.cached_tokens, engine.stats().sequences_copied) == (64, 1)
    assert copied.tokens == tuple(qwen3.greedy(other, 6))
    engine.save("a", tmp_path / "a")
    longer = [*ids, *first.tokens, 3]
    with Engine(qwen3.session.model) as fresh:
        assert fresh.restore(tmp_path / "a", "b") >= 155
        result = fresh.submit(longer, session_id="b", **OPTIONS).result(60)
    assert result.usage.cached_tokens == 128
    assert result.tokens == tuple(qwen3.greedy(longer, 6))


def test_what_a_ring_of_rows_still_has_is_reused(
    make_pair: Callable[..., Any], tmp_path: Path
) -> None:
    """A sliding window of 40 in 192 rows: going back a little, far, to a checkpoint, and a file."""
    mistral = make_pair("mistral")
    assert {(b.kind, b.shape[0]) for b in mistral.artifact.manifest.state} == {("window", 192)}
    ids, model = mistral.ids(300, seed=1), mistral.session.model

    def ask(engine: Engine, prompt: list[int], count: int = 6, **options: Any) -> tuple[Any, int]:
        result = engine.submit(prompt, **OPTIONS | {"max_new_tokens": count}, **options).result(60)
        assert list(result.tokens) == mistral.greedy(prompt, count)
        return result, result.usage.cached_tokens

    with Engine(model, memory=1 << 30) as engine:
        first, _ = ask(engine, ids, session_id="a")
        # Less than what the ring overwrote is a copy for somebody else.
        assert ask(engine, [*ids[:250], 1, 2])[1] == 224
        assert engine.stats().sequences_copied == 1
        assert ask(engine, [*ids[:100], 1, 2])[1] == 0
        engine.save("a", tmp_path / "a")
    longer = [*ids, *first.tokens]
    with Engine(model) as engine:
        engine.restore(tmp_path / "a", "b")
        _, cached = ask(engine, [*longer, 3], 200, session_id="b")
        assert cached == 288
        # Another answer to the same prompt: 200 tokens back, from its checkpoint.
        assert ask(engine, [*longer, 3, 4], session_id="b")[1] == 288


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
