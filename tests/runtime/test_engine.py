"""Many requests at once on a program in Python: each answer is that of the prompt alone."""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.fakes import FakeProgram

from edgec.artifact import Artifact
from edgec.errors import (
    DeviceError,
    EdgecError,
    EngineClosed,
    InputError,
    QueueFull,
    RequestTimeout,
)
from edgec.runtime import Engine, Session
from edgec.runtime.engine import _open as engines_open
from edgec.runtime.perplexity import perplexity
from edgec.runtime.sequence import Sequence

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
    for prompt, options in (
        ("", {}), ([1] * 101, {}), ("a", {"temp": 1}), ("a", {"logprobs": -1}),
        ("a", {"logprobs": 1.5}), ("a", {"timeout": 0}), ("a", {"timeout": "1"}),
        ("a", {"timeout": 10**400}), ("a", {"timeout": float("nan")}),
    ):  # fmt: skip
        with pytest.raises(InputError):
            engine.submit(prompt, **options)
    assert engine.stats().requests == 0
    with pytest.raises(InputError, match="one sequence needs"):
        make_engine({"memory": 100})
    for wrong in (
        {"ttl": -1}, {"ttl": 10**400}, {"ttl": "x"}, {"max_queue": 0}, {"max_queue": 1.5},
        {"memory": "1G"},
    ):  # fmt: skip
        with pytest.raises(InputError, match=next(iter(wrong))):
            make_engine(wrong)
    # Longer than a lock can wait.
    patient = make_engine({"ttl": 1e300})
    for _ in range(2):
        assert patient.submit("a", timeout=1e300, max_new_tokens=2).result(20).tokens


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


def generate(engine: Engine, prompt: list[int], **options: Any) -> Any:
    return engine.submit(prompt, **({"max_new_tokens": 4, "ignore_eos": True} | options)).result(20)


@pytest.mark.parametrize("kind", ["attention", "recurrent"])
@pytest.mark.parametrize("shared", [0, 1, 30, 64, 79, 80])
def test_a_prefix_is_shared_across_requests(
    make_engine: Callable[..., Engine], make_session: MakeSession, kind: str, shared: int
) -> None:
    engine = make_engine(kind=kind)
    first = ids(80, 1)
    generate(engine, first)
    second = [*first[:shared], *ids(20, 9)]
    result = generate(engine, second)
    alone = make_session(kind=kind).generate(second, max_new_tokens=4, ignore_eos=True)
    assert result.tokens == alone.tokens
    # In whole blocks; without rows only the last whole block of the prompt can be gone back to.
    whole = shared // 32 * 32
    assert result.usage.cached_tokens == (whole if kind == "attention" or whole == 64 else 0)
    again = generate(engine, first)
    assert (
        again.tokens
        == make_session(kind=kind).generate(first, max_new_tokens=4, ignore_eos=True).tokens
    )


def test_the_reason_of_no_reuse_is_logged(
    make_engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(kind="recurrent")
    generate(engine, ids(80, 1))
    with caplog.at_level("INFO", "edgec.engine"):
        generate(engine, ids(60, 1))
    assert "32 common tokens are computed again" in caplog.text
    assert "kind recurrent" in caplog.text


def test_a_running_sequence_can_be_copied(
    make_engine: Callable[..., Engine], make_session: MakeSession
) -> None:
    engine = make_engine()
    gate = Gate()
    first = engine.submit(ids(50, 1), token_filter=gate, max_new_tokens=4, ignore_eos=True)
    assert gate.entered.wait(20)
    second = engine.submit([*ids(50, 1), 7], max_new_tokens=4, ignore_eos=True)
    gate.open.set()
    alone = make_session().generate([*ids(50, 1), 7], max_new_tokens=4, ignore_eos=True)
    assert second.result(20).tokens == alone.tokens
    assert second.result().usage.cached_tokens == 32
    assert first.result(20).finish_reason == "length"
    assert engine.stats().sequences_copied == 1


def test_a_conversation_goes_on_in_place(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    one = generate(engine, ids(40, 1), session_id="a", max_new_tokens=30)
    longer = [*ids(40, 1), *one.tokens, 5]
    assert generate(engine, longer, session_id="a").usage.cached_tokens == 64
    # Another answer to the same message: what was generated is given up, nothing is copied.
    assert generate(engine, longer[:51], session_id="a").usage.cached_tokens == 32
    stats = engine.stats()
    assert (stats.sequences_created, stats.sequences_reused, stats.sequences_copied) == (1, 2, 0)


def test_memory_is_taken_from_the_oldest(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine({"memory": 2 * 4 * 288})
    prompts = [ids(40, n) for n in (1, 2, 3)]
    for prompt in prompts:
        generate(engine, prompt)
    stats = engine.stats()
    assert (stats.inactive, stats.sequences_evicted) == (2, 1)
    assert stats.state_bytes == stats.state_budget
    cached = [generate(engine, prompt).usage.cached_tokens for prompt in prompts[::-1]]
    assert cached == [32, 32, 0]


def test_inactive_sequences_are_freed_in_time(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine({"ttl": 0.05})
    generate(engine, ids(40, 1))
    assert engine.stats().inactive == 1
    deadline = time.monotonic() + 20
    while engine.stats().state_bytes and time.monotonic() < deadline:
        time.sleep(0.01)
    stats = engine.stats()
    assert (stats.inactive, stats.state_bytes, stats.sequences_expired) == (0, 0, 1)


def test_a_sequence_is_saved_and_restored(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    for kind in ("attention", "recurrent"):
        engine, other = make_engine(kind=kind), make_engine(kind=kind)
        first = generate(engine, ids(40, 1), session_id="a")
        engine.save("a", tmp_path / "state")
        with pytest.raises(InputError, match="'b'"):
            engine.save("b", tmp_path / "b")
        assert other.restore(tmp_path / "state", "x") >= 43
        prompt = [*ids(40, 1), *first.tokens, 8, 9]
        result, expected = generate(other, prompt), generate(engine, prompt)
        assert result.tokens == expected.tokens
        cached = 32 if kind == "attention" else 43
        assert result.usage.cached_tokens == expected.usage.cached_tokens == cached
    (tmp_path / "bad").write_bytes(b"PK\x03\x04 no archive")
    for name in ("bad", "none"):
        with pytest.raises(InputError, match=name):
            other.restore(tmp_path / name, "x")
    foreign = make_engine(digest="1")
    with pytest.raises(InputError, match="another artifact"):
        foreign.restore(tmp_path / "state", "x")
    assert foreign.stats().state_bytes == 0


def test_a_stream_never_waits_for_more_than_a_chunk(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(context=2048, longest=64)
    gate = Gate()
    first = engine.submit([1] * 5, token_filter=gate, max_new_tokens=60, ignore_eos=True)
    assert gate.entered.wait(20)
    second = engine.submit([2] * 1900, max_new_tokens=2)
    gate.open.set()
    second.result(20)
    first.result(20)
    calls = [(name, length) for name, _, length, _ in program_of(engine).calls]
    decodes = [at for at, (name, _) in enumerate(calls) if name == "decode"][:50]
    between = [b - a - 1 for a, b in pairwise(decodes)]
    assert max(between) == 1  # one chunk, never two
    assert sum(between) > 20


def test_chunks_and_steps_of_others_do_not_overlap(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(context=2048, longest=64)
    program = program_of(engine)
    running: dict[str, list[Any]] = {"prefill": [], "decode": []}
    overlaps: list[str] = []

    def tracked(name: str, states: list[Any], outputs: list[Any]) -> list[Any]:
        other = {"prefill": "decode", "decode": "prefill"}[name]
        overlaps.extend(name for state in running[other] if state not in states)
        running[name] += states

        def done(read: Callable[[], Any], state: Any) -> Callable[[], Any]:
            def reading() -> Any:
                if state in running[name]:
                    running[name].remove(state)
                return read()

            return reading

        for state, output in zip(states, outputs, strict=True):
            for read in ("wait", "token", "logits"):
                setattr(output, read, done(getattr(output, read), state))
        return outputs

    prefill, decode = program.prefill, program.decode
    monkeypatch.setattr(program, "prefill", lambda *a: tracked("prefill", [a[3]], [prefill(*a)])[0])
    monkeypatch.setattr(
        program, "decode", lambda steps: tracked("decode", [s[2] for s in steps], decode(steps))
    )
    # One that runs ahead of its tokens, one that does not.
    streams = [
        engine.submit([n] * 5, max_new_tokens=1500, ignore_eos=True, temperature=n)
        for n in range(2)
    ]
    for stream in streams:
        next(stream)
    long = engine.submit([3] * 1900, max_new_tokens=2, temperature=0)
    long.result(20)
    for stream in streams:
        stream.cancel()
    assert overlaps == []
    assert engine.stats().prefill_calls >= 30


def test_many_short_requests_leave_nothing(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine({"memory": 6 * 4 * 288, "max_queue": 1000, "ttl": 0.5})
    for batch in range(10):
        requests = [engine.submit(ids(5, n), max_new_tokens=6) for n in range(60)]
        for at, request in enumerate(requests):
            if at % 3 == 0:
                request.cancel()
        for request in requests:
            request.result(20)
        stats = engine.stats()
        assert (stats.queued, stats.prefilling, stats.decoding) == (0, 0, 0)
        assert stats.state_bytes == stats.inactive * stats.sequence_bytes <= stats.state_budget
        assert stats.completed + stats.cancelled == stats.requests == 60 * (batch + 1)
        assert stats.sequences_created - stats.sequences_retired == stats.inactive
    engine.close()
    stats = engine.stats()
    assert stats.state_bytes == 0
    assert stats.sequences_created == stats.sequences_retired


def test_log_probabilities_and_filters(make_engine: Callable[..., Engine]) -> None:
    class Only:
        """Lets nothing through but two letters."""

        seen: list[int]

        def mask(self, tokens: Any, logits: np.ndarray) -> None:
            self.seen = list(tokens)
            kept = logits[[97, 98]]
            logits[:] = -np.inf
            logits[[97, 98]] = kept

    engine, only = make_engine(), Only()
    chunks = list(
        engine.submit("abc", token_filter=only, logprobs=3, max_new_tokens=5, ignore_eos=True)
    )
    tokens = [chunk.token for chunk in chunks]
    assert set(tokens) <= {97, 98}
    assert only.seen == tokens[:4]
    for chunk in chunks:
        assert chunk.logprobs is not None
        values = [value for _, value in chunk.logprobs.top]
        assert len(values) == 3 and values == sorted(values, reverse=True)
        assert chunk.logprobs.token <= values[0] < 0
    plain = engine.submit("abc", logprobs=0, temperature=0, max_new_tokens=2).result(20)
    assert plain.tokens == generate(make_engine(), list(b"abc"), max_new_tokens=2).tokens


class Panic(BaseException):
    """Raised the way the bindings of Rust libraries do."""


ERRORS = [
    InputError("no such grammar"), ValueError("x"), MemoryError(), RecursionError(),
    KeyboardInterrupt(), SystemExit(3), GeneratorExit(), Panic("index out of bounds"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_filter_that_fails_ends_its_request_only(
    make_engine: Callable[..., Engine], error: BaseException
) -> None:
    class Bad:
        def mask(self, tokens: Any, logits: np.ndarray) -> None:
            raise error

    engine = make_engine()
    bad = engine.submit("abc", token_filter=Bad())
    good = engine.submit("abc", max_new_tokens=5)
    with pytest.raises(EdgecError, match="grammar|the generation failed"):
        bad.result(20)
    assert good.result(20).usage.completion_tokens <= 5
    assert engine.submit("abc", max_new_tokens=2).result(20).finish_reason
    assert engine.stats().failed == 1


@pytest.mark.parametrize("error", [ValueError("x"), Panic("retry limit")], ids=["error", "panic"])
@pytest.mark.parametrize("name", ["decode", "special_id"])
def test_a_tokenizer_that_fails_ends_its_request_only(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, error: BaseException,
    name: str,
) -> None:  # fmt: skip
    """While text is made of tokens, or before the first."""
    engine, gate = make_engine(), Gate()
    good = engine.submit("abc", token_filter=gate, max_new_tokens=3, ignore_eos=True)
    assert gate.entered.wait(20)

    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(engine.model.tokenizer), name, fail)
        bad = engine.submit("abc", max_new_tokens=3, stop_strings="x")
        cancelled = engine.submit("abc", stop_strings="x")
        cancelled.cancel()
        gate.open.set()
        for request in (bad, cancelled) if name == "special_id" else (bad,):
            with pytest.raises(DeviceError, match="the generation failed"):
                request.result(20)
    if name == "special_id":
        assert good.result(20).usage.completion_tokens == 3
    assert engine.submit("abc", max_new_tokens=2).result(20).finish_reason


def test_cancelled_tasks_do_not_cancel_requests(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    gate = Gate()

    async def run() -> None:
        request = engine.submit("abc", token_filter=gate, max_new_tokens=3, ignore_eos=True)
        task = asyncio.create_task(request.wait())
        await asyncio.sleep(0.01)
        task.cancel()
        gate.open.set()
        assert [chunk.token async for chunk in request]
        assert request.done and not request.cancelled

    asyncio.run(run())


def test_prefixes_are_reused_within_a_scope(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    prompt = ids(80, 1)

    def cached(scope: str | None, **options: Any) -> int:
        return generate(engine, prompt, cache_scope=scope, **options).usage.cached_tokens

    assert [cached("alice"), cached("bob"), cached(None)] == [0, 0, 0]
    assert all(cached(scope) > 0 for scope in ("alice", "bob", None))
    # Not from a sequence in use either, nor by the name of a conversation.
    gate = Gate()
    running = engine.submit(ids(50, 2), token_filter=gate, cache_scope="alice", max_new_tokens=2)
    assert gate.entered.wait(20)
    other = engine.submit(ids(50, 2), cache_scope="bob", max_new_tokens=2)
    gate.open.set()
    running.result(20)
    assert other.result(20).usage.cached_tokens == 0
    assert cached("alice", session_id="talk") > 0
    assert cached("carol", session_id="talk") == 0


def test_a_saved_conversation_belongs_to_its_scope(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = make_engine()
    for scope, first in (("alice", 1), ("bob", 2)):
        generate(engine, ids(40, first), session_id="talk", cache_scope=scope)
    with pytest.raises(InputError, match="'talk'"):
        engine.save("talk", tmp_path / "none")
    engine.save("talk", tmp_path / "alice", cache_scope="alice")
    other = make_engine()
    other.restore(tmp_path / "alice", "talk", cache_scope="alice")
    prompt = [*ids(40, 1), 5]
    assert generate(other, prompt, cache_scope="bob").usage.cached_tokens == 0
    assert generate(other, prompt, cache_scope="alice").usage.cached_tokens > 0


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    return wide - np.log(np.exp(wide - wide.max()).sum()) - wide.max()


def check_scores(session: Session, prompt: list[int], scores: list[Any], places: list[int]) -> None:
    """Against the logits after each of the prompt's beginnings."""
    assert len(scores) == len(prompt) - 1
    for at in places:
        session.reset()
        expected = log_softmax(session.prefill(prompt[:at]))
        assert scores[at - 1].token == pytest.approx(expected[prompt[at]], abs=2e-4)
        best = sorted(expected, reverse=True)[: len(scores[at - 1].top)]
        assert [value for _, value in scores[at - 1].top] == pytest.approx(best, abs=2e-4)


@pytest.mark.parametrize("kind", ["attention", "recurrent"])
@pytest.mark.parametrize("count", [1, 2, 70, 256])
def test_a_prompt_is_scored(
    make_engine: Callable[..., Engine], make_session: MakeSession, kind: str, count: int
) -> None:
    engine, prompt = make_engine(kind=kind), ids(count, 3)
    generate(engine, prompt[:50], session_id="a")
    request = engine.submit(prompt, score_prompt=True, logprobs=2, max_new_tokens=0)
    result = request.result(20)
    assert (result.text, result.tokens, result.finish_reason) == ("", (), "length")
    assert (result.usage.completion_tokens, result.usage.cached_tokens) == (0, 0)
    assert list(request) == []
    check_scores(make_session(kind=kind), prompt, request.prompt_logprobs, [*range(1, count)])
    stats = engine.stats()
    assert (stats.completed, stats.failed, stats.decoding) == (2, 0, 0)


def test_a_prompt_is_scored_and_gone_on_with(
    make_engine: Callable[..., Engine], make_session: MakeSession
) -> None:
    engine, prompt = make_engine(context=300), ids(90, 3)
    others = [engine.submit(ids(20, n), max_new_tokens=200, ignore_eos=True) for n in range(2)]
    request = engine.submit(prompt, score_prompt=True, max_new_tokens=5, ignore_eos=True)
    chunks = []
    for chunk in request:
        assert len(request.prompt_logprobs) == 89
        chunks.append(chunk)
    alone = make_session(context=300).generate(prompt, max_new_tokens=5, ignore_eos=True)
    assert tuple(chunk.token for chunk in chunks) == alone.tokens
    check_scores(make_session(), prompt, request.prompt_logprobs, [*range(1, 90)])
    assert all(other.result(20).usage.completion_tokens == 200 for other in others)
    with pytest.raises(InputError, match="prompt of 300 tokens and 1 new"):
        engine.submit(ids(300, 3), score_prompt=True, max_new_tokens=1)
    with pytest.raises(InputError, match="max_new_tokens=0"):
        engine.submit(prompt, max_new_tokens=0)


def test_scoring_can_be_cancelled(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(context=5000)
    request = engine.submit(ids(5000, 3), score_prompt=True, max_new_tokens=0)
    while not request.prompt_logprobs:
        time.sleep(1e-3)
    request.cancel()
    assert request.result(20).finish_reason == "cancelled"
    assert len(request.prompt_logprobs) < 4999
    assert engine.stats().state_bytes == 0


def test_scores_of_a_compiled_model(tiny_dense_artifact: Artifact) -> None:
    text = "In the beginning God created the heaven and the earth. And the earth was without form."
    session = Session(tiny_dense_artifact)
    prompt = session.encode(text)
    with Engine(session.model) as engine:
        request = engine.submit(text, score_prompt=True, logprobs=5, max_new_tokens=0)
        request.result(60)
    scores = request.prompt_logprobs
    check_scores(session, prompt, scores, [1, 2, len(prompt) // 2, len(prompt) - 1])
    mean = -sum(score.token for score in scores) / len(scores)
    assert mean == pytest.approx(perplexity(session, text).nll, abs=1e-9)


def test_engines_leave_nothing_for_the_end_of_the_process(make_session: MakeSession) -> None:
    model = make_session().model
    Engine(model).close()
    before = atexit._ncallbacks()
    for _ in range(20):
        Engine(model).close()
    forgotten = Engine(model)
    assert atexit._ncallbacks() == before
    assert set(engines_open) == {forgotten}
    forgotten.close()
    assert set(engines_open) == set()


def test_others_do_not_wait_while_a_sequence_is_saved(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = make_engine()
    generate(engine, ids(40, 1), session_id="a")
    saving, done = threading.Event(), threading.Event()

    def slow(self: Any, path: Path) -> None:
        saving.set()
        assert done.wait(20)

    monkeypatch.setattr(Sequence, "save", slow)
    thread = threading.Thread(target=engine.save, args=("a", tmp_path / "a"))
    thread.start()
    assert saving.wait(20)
    request = engine.submit("abc", max_new_tokens=2)
    assert engine.stats().queued == 1
    request.cancel()
    done.set()
    thread.join(20)
    assert request.result(20).finish_reason == "cancelled"
