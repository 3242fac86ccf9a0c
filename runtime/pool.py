"""The sequences of an engine and the memory that they hold, under a budget."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from edgec.errors import DeviceError, InputError
from edgec.runtime.interfaces import CompiledProgram
from edgec.runtime.phases import SequencePhase
from edgec.runtime.sequence import Sequence

__all__ = ["PoolCounters", "SequencePool"]


@dataclass
class PoolCounters:
    """What became of sequences: made, given up for others' memory, or for their age."""

    created: int = 0
    reused: int = 0
    evicted: int = 0
    expired: int = 0
    retired: int = 0


@dataclass
class _Idle:
    sequence: Sequence
    session_id: str | None
    since: float


class SequencePool:
    """Hands out sequences and takes them back. For one thread.

    Args:
        program: What the sequences run on.
        budget: Bytes of state, of all sequences together.
        ttl: Seconds for which an inactive sequence is kept; None: until its memory is needed.

    Raises:
        InputError: the budget does not hold one sequence.
    """

    def __init__(self, program: CompiledProgram, budget: int, ttl: float | None) -> None:
        self.sequence_bytes = program.manifest.memory.state_per_sequence
        if budget < self.sequence_bytes:
            raise InputError(
                f"memory: {_mb(budget)} MB of state, one sequence needs {_mb(self.sequence_bytes)}",
                "give more memory, or compile with a smaller --ctx-size",
            )
        self.budget = budget
        self.ttl = ttl
        self.counters = PoolCounters()
        self._program = program
        self._busy: list[Sequence] = []
        self._idle: list[_Idle] = []

    @property
    def inactive(self) -> int:
        """How many sequences are kept without anybody using them."""
        return len(self._idle)

    @property
    def state_bytes(self) -> int:
        """Device memory that all sequences hold now."""
        held = sum(sequence.state_bytes for sequence in tuple(self._busy))
        return held + sum(idle.sequence.state_bytes for idle in tuple(self._idle))

    def acquire(
        self, prompt: Seq[int], session_id: str | None, reuse: bool
    ) -> tuple[Sequence, int] | None:
        """A sequence for a prompt, which holds as many of its first tokens as can be had.

        Returns:
            The sequence and how many tokens of the prompt it holds; None when there is no memory
            until another sequence is released.

        Raises:
            DeviceError: no memory, though no other sequence holds any.
        """
        self.expire()
        best = self._best(prompt, session_id) if reuse else None
        if best is not None:
            self._idle.remove(best)
            self.counters.reused += 1
        else:
            best = self._fresh()
            if best is None:
                return None
        self._busy.append(best.sequence)
        return best.sequence, best.sequence.keep(prompt)

    def release(self, sequence: Sequence, session_id: str | None, keep: bool) -> None:
        """Takes a sequence back.

        Args:
            session_id: Of whose conversation it is now the latest.
            keep: Whether it stays, inactive, for a follow-up; otherwise its state is freed.
        """
        self._busy.remove(sequence)
        if not keep or self.ttl == 0 or sequence.phase is SequencePhase.POISONED:
            self._retire(sequence)
            return
        sequence.pause()
        for idle in self._idle:
            if session_id is not None and idle.session_id == session_id:
                idle.session_id = None
        self._idle.append(_Idle(sequence, session_id, time.monotonic()))

    def expire(self) -> None:
        """Frees what has been inactive for too long."""
        if self.ttl is None:
            return
        oldest = time.monotonic() - self.ttl
        while self._idle and self._idle[0].since <= oldest:
            self._retire(self._idle.pop(0).sequence)
            self.counters.expired += 1

    def next_expiry(self) -> float | None:
        """Seconds until `expire` has something to do; None: never."""
        if self.ttl is None or not self._idle:
            return None
        return max(0.0, self._idle[0].since + self.ttl - time.monotonic())

    def clear(self) -> None:
        """Frees all inactive sequences."""
        while self._idle:
            self._retire(self._idle.pop().sequence)

    def _best(self, prompt: Seq[int], session_id: str | None) -> _Idle | None:
        """The inactive sequence with the longest usable prefix; of equals the session's own."""
        scored = [
            (
                idle.sequence.reusable(prompt),
                session_id is not None and idle.session_id == session_id,
                at,
            )
            for at, idle in enumerate(self._idle)
        ]
        length, _, at = max(scored, default=(0, False, 0))
        return self._idle[at] if length else None

    def _fresh(self) -> _Idle | None:
        """An empty sequence, from the budget or at the cost of the oldest inactive one."""
        while True:
            held = (len(self._busy) + len(self._idle)) * self.sequence_bytes
            if held + self.sequence_bytes <= self.budget:
                try:
                    sequence = Sequence(self._program)
                except DeviceError:
                    # The budget was too much. What others hold may do.
                    if not self._idle and not self._busy:
                        raise
                else:
                    self.counters.created += 1
                    return _Idle(sequence, None, 0.0)
            if not self._idle:
                return None
            self._retire(self._idle.pop(0).sequence)
            self.counters.evicted += 1

    def _retire(self, sequence: Sequence) -> None:
        sequence.retire()
        self.counters.retired += 1


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"
