"""A Ctrl-C at any moment: what the session does afterwards is what it would have done without.

Python raises a KeyboardInterrupt only after some instructions (calls, jumps back, entries of a
function). `InterruptAt` raises one after the n-th of these in the runtime's own code.
"""

from __future__ import annotations

import dis
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from tests.runtime.fakes import FakeProgram, make_manifest

import edgec.runtime
from edgec.artifact import Artifact
from edgec.errors import DeviceError
from edgec.runtime import GenerationConfig, LoadedModel, SequencePhase, Session
from edgec.runtime.tokenizer import Tokenizer

RUNTIME = Path(edgec.runtime.__file__).parent
FOLDERS = {str(RUNTIME), str(RUNTIME.resolve())}
CHECKS = {
    dis.opmap[name]
    for name in ("CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD")
    if name in dis.opmap
}
TURNS = ("In the beginning God created", "In the beginning was the Word", "In the beginning God")


class InterruptAt:
    """A trace function that raises KeyboardInterrupt at the n-th place where a signal could."""

    def __init__(self, number: int) -> None:
        self.number, self.count = number, 0
        self._codes: dict[CodeType, bytes | None] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code not in self._codes:
            ours = str(Path(code.co_filename).parent) in FOLDERS
            self._codes[code] = code.co_code if ours else None
        instructions = self._codes[code]
        if instructions is None:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        previous = -1

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal previous
            if event == "opcode":
                if previous in CHECKS:
                    self.count += 1
                    if self.count == self.number:
                        raise KeyboardInterrupt
                previous = instructions[frame.f_lasti]
            return trace

        return trace

    def run(self, act: Callable[[], Any]) -> bool:
        """Whether `act` was interrupted."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            act()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "ignore_eos": True}


def close_early(session: Session) -> None:
    stream = session.stream(TURNS[1], **OPTIONS)
    next(stream)
    next(stream)
    stream.close()


def save_and_restore(session: Session, path: Path) -> None:
    session.sequence.save(path)
    session.sequence.restore(path)


def scenarios(path: Path) -> dict[str, Callable[[Session], Any]]:
    return {
        "greedy": lambda s: s.generate(TURNS[1], temperature=0, **OPTIONS),
        "sampled": lambda s: s.generate(TURNS[1], temperature=1.0, seed=1, **OPTIONS),
        "again": lambda s: s.generate(TURNS[0], temperature=0, **OPTIONS),
        "closed": close_early,
        "reset": lambda s: s.reset(),
        "step": lambda s: s.decode(5),
        "file": lambda s: save_and_restore(s, path),
    }


NAMES = tuple(scenarios(Path()))


def check(make: Callable[[], Session], name: str, path: Path, places: int) -> int:
    """Interrupts a scenario in up to so many places; returns in how many."""
    act, times = scenarios(path)[name], 0
    expected = [
        make().generate(turn, temperature=0, **OPTIONS).tokens for turn in (TURNS[2], TURNS[1])
    ]

    def prepared() -> Session:
        session = make()
        session.generate(TURNS[0], temperature=0, **OPTIONS)
        return session

    counting, session = InterruptAt(0), prepared()
    assert not counting.run(lambda: act(session))
    for number in range(1, counting.count + 1, 1 + counting.count // places):
        session = prepared()
        assert InterruptAt(number).run(lambda: act(session)), number  # noqa: B023
        times += 1
        tokens = session.sequence.tokens
        if session.phase is SequencePhase.POISONED:
            with pytest.raises(DeviceError, match="poisoned: it was interrupted"):
                session.decode(1)
        elif 0 < len(tokens) < session.sequence.context:
            # It goes on from what it says it holds.
            other = make()
            other.prefill(tokens)
            assert session.decode(9).argmax() == other.decode(9).argmax(), (number, tokens)
        found = [
            session.generate(turn, temperature=0, **OPTIONS).tokens for turn in (TURNS[2], TURNS[1])
        ]
        assert found == expected, number
        session.reset()
        assert session.generate(TURNS[2], temperature=0, **OPTIONS).tokens == expected[0], number
    return times


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["attention", "recurrent"])
def test_anywhere_in_the_bookkeeping(
    tokenizer: Tokenizer, tmp_path: Path, kind: str, name: str
) -> None:
    def make() -> Session:
        manifest = make_manifest(kind=kind)
        program = FakeProgram(manifest)
        artifact = Artifact(Path("fake"), manifest)
        return Session(LoadedModel(artifact, program, tokenizer, None, GenerationConfig()))

    assert check(make, name, tmp_path / "state", places=20) >= 8


@pytest.fixture(scope="module")
def compiled(compile_once: Callable[..., Artifact]) -> Session:
    return Session(
        compile_once("interrupts", "bundled:tiny-dense", target="cpu", layers=1, ctx_size=64)
    )


@pytest.mark.parametrize("name", NAMES)
def test_anywhere_between_calls_of_the_device(compiled: Session, tmp_path: Path, name: str) -> None:
    assert check(compiled.share, name, tmp_path / "state", places=40) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_everywhere_between_calls_of_the_device(
    compiled: Session, tmp_path: Path, name: str
) -> None:
    assert check(compiled.share, name, tmp_path / "state", places=10**6) >= 12


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_real_signals(compiled: Session) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 40, "ignore_eos": True}
    expected = compiled.share().generate(TURNS[0], **options).tokens
    session = compiled.share()
    for at in range(120):
        with interrupted_after(1e-4 + at * 2e-4):
            session.generate(TURNS[at % 2], **options)
        assert session.generate(TURNS[0], **options).tokens == expected
