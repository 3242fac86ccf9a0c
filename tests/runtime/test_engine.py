"""Many requests at once on a program in Python: each answer is that of the prompt alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.runtime.fakes import FakeProgram

from edgec.errors import DeviceError, EngineClosed, InputError, QueueFull, RequestTimeout
from edgec.runtime import Engine, Session

MakeSession = Callable[..., Session]


@pytest.fixture
def make_engine(make_session: MakeSession) -> Iterator[Callable[..., Engine]]:
    """`make_engine(engine={...}, **of make_session)`; closed at the end of the test."""
    engines: list[Engine] = []

    def make(engine: dict[str, Any] | None = None, **session: Any) -> Engine:
        engines.append(Engine(make_session(**session).model, **(engine or {})))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def program_of(engine: Engine) -> FakeProgram:
    program = engine.model.program
    assert isinstance(program, FakeProgram)
    return program


def ids(count: int, first: int) -> list[int]:
    return [(first + 7 * i) % 250 for i in range(count)]


@pytest.mark.parametrize("kind", ["attention", "recurrent"])
def test_many_at_once_are_as_each_alone(
    make_engine: Callable[..., Engine], make_session: MakeSession, kind: str
) -> None:
    engine = make_engine({"memory": 3 * 4 * 288}, kind=kind)
    prompts = [ids(1 + 23 * n % 140, n) for n in range(12)]
    requests = [engine.submit(p, max_new_tokens=20, ignore_eos=True) for p in prompts]
    for prompt, request in zip(prompts, requests, strict=True):
        alone = make_session(kind=kind).generate(prompt, max_new_tokens=20, ignore_eos=True)
        assert request.result(20).tokens == alone.tokens
        assert request.prompt_tokens == len(prompt)
    stats = engine.stats()
    assert stats.completed == stats.requests == 12
    assert stats.state_bytes <= stats.state_budget


def test_chunks_blocking_and_async(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(answer="héllo", prompt="say")
    assert "".join(chunk.text for chunk in engine.submit("say")) == "héllo"

    async def collect() -> str:
        request = engine.submit("say")
        text = "".join([chunk.text async for chunk in request])
        assert (await request.wait()).text == text
        return text

    async def several() -> list[str]:
        return await asyncio.gather(*(collect() for _ in range(5)))

    assert asyncio.run(several()) == ["héllo"] * 5


def test_bad_input_is_refused_at_once(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(context=100)
    for prompt, options in (("", {}), ([1] * 101, {}), ("a", {"temp": 1}), ("a", {"logprobs": -1})):
        with pytest.raises(InputError):
            engine.submit(prompt, **options)
    assert engine.stats().requests == 0
    with pytest.raises(InputError, match="one sequence needs"):
        make_engine({"memory": 100})


class Gate:
    """A token filter that lets a test stop the model's thread between two tokens."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def mask(self, tokens: Any, logits: np.ndarray) -> None:
        self.entered.set()
        assert self.open.wait(20)


def test_a_full_queue_refuses(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine({"memory": 4 * 288, "max_queue": 2})
    gate = Gate()
    first = engine.submit("abc", token_filter=gate, max_new_tokens=2)
    assert gate.entered.wait(20)
    others = [engine.submit("abc", max_new_tokens=2) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 requests wait"):
        engine.submit("abc")
    assert engine.stats().queued == 2
    gate.open.set()
    for request in (first, *others):
        request.result(20)
    assert engine.stats().rejected == 1


def test_cancel_and_time_out_free_the_state(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    gate = Gate()
    running = engine.submit("abc", token_filter=gate, max_new_tokens=50, ignore_eos=True)
    late = engine.submit("xyz", timeout=1e-3, max_new_tokens=200, ignore_eos=True)
    assert gate.entered.wait(20)
    running.cancel()
    assert list(running) == []
    time.sleep(2e-3)
    gate.open.set()
    assert running.result(20).finish_reason == "cancelled"
    with pytest.raises(RequestTimeout):
        late.result(20)
    stats = engine.stats()
    assert (stats.cancelled, stats.timed_out, stats.state_bytes) == (1, 1, 0)


def test_a_failure_ends_that_generation_only(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(fail_at=100)
    bad = engine.submit([1] * 99, max_new_tokens=10, ignore_eos=True)
    good = engine.submit([2] * 9, max_new_tokens=40, ignore_eos=True)
    with pytest.raises(DeviceError, match="device lost"):
        bad.result(20)
    assert good.result(20).usage.completion_tokens == 40
    stats = engine.stats()
    assert (stats.failed, stats.completed) == (1, 1)


def test_closing_ends_what_runs(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    gate = Gate()
    request = engine.submit("abc", token_filter=gate, max_new_tokens=5)
    gate.entered.wait(20)
    closing = threading.Thread(target=engine.close)
    closing.start()
    gate.open.set()
    closing.join(20)
    with pytest.raises(EngineClosed):
        request.result(20)
    with pytest.raises(EngineClosed):
        engine.submit("abc")
    assert engine.stats().state_bytes == 0
