"""The sequences of an engine and the memory that they hold, under a budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

from edgec.errors import DeviceError, EdgecError, InputError
from edgec.runtime.interfaces import CompiledProgram
from edgec.runtime.phases import SequencePhase
from edgec.runtime.sequence import Sequence
from edgec.runtime.state import state_bytes

__all__ = ["PoolCounters", "SequencePool"]

_log = logging.getLogger("edgec.engine")


@dataclass
class PoolCounters:
    """Counts of sequences: made, given up for others' memory, or for their age."""

    created: int = 0
    reused: int = 0
    copied: int = 0
    evicted: int = 0
    expired: int = 0
    retired: int = 0


@dataclass
class _Idle:
    sequence: Sequence
    session_id: str | None
    scope: str | None
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
        self.sequence_bytes = state_bytes(program.manifest.state)
        if budget < self.sequence_bytes:
            raise InputError(
                f"memory: {_mb(budget)} MB of state, one sequence needs {_mb(self.sequence_bytes)}",
                "give more memory, or compile with a smaller --ctx-size",
            )
        self.budget = budget
        self.ttl = ttl
        self.counters = PoolCounters()
        self._program = program
        self._busy: dict[Sequence, str | None] = {}  # each with its scope
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
        self, prompt: Seq[int], session_id: str | None, reuse: bool, scope: str | None = None
    ) -> tuple[Sequence, int] | None:
        """A sequence for a prompt, which holds as many of its first tokens as can be had.

        Args:
            scope: Only what sequences of the same scope hold is used, and told of.

        Returns:
            The sequence and how many tokens of the prompt it holds; None when there is no memory
            until another sequence is released.

        Raises:
            DeviceError: no memory, though no other sequence holds any.
        """
        self.expire()
        source, held = self._best(prompt, session_id, scope) if reuse else (None, 0)
        idle = next((idle for idle in self._idle if idle.sequence is source), None)
        own = idle is not None and session_id is not None and idle.session_id == session_id
        if idle is not None and (own or not self._worth_a_copy(idle, prompt, held)):
            return self._take(idle, prompt), held
        sequence = self._fresh(idle)
        if sequence is None:
            return None if idle is None else (self._take(idle, prompt), held)
        self._busy[sequence] = scope
        if source is not None:
            try:
                sequence.copy_prefix(source, held)
            except EdgecError:
                # The source's own failure, which its request will hear of.
                self.release(sequence, None, keep=False)
                return self.acquire(prompt, session_id, False, scope)
            except BaseException:
                self.release(sequence, None, keep=False)
                raise
            self.counters.copied += 1
        return sequence, held

    def _worth_a_copy(self, idle: _Idle, prompt: Seq[int], held: int) -> bool:
        """Whether to leave an inactive sequence as it is, for somebody may come back to it.

        Taking it gives up what it has not in common with the prompt. Where there is no memory
        left, a copy gives up another sequence.
        """
        lost = idle.sequence.length - idle.sequence.common(prompt)
        # Less than a block of tokens costs no more to compute than one token.
        if lost < self._program.manifest.prompt.multiple_of or not idle.sequence.can_truncate(held):
            return False
        if (len(self._busy) + len(self._idle) + 1) * self.sequence_bytes <= self.budget:
            return True
        oldest = next((other for other in self._idle if other is not idle), None)
        return oldest is not None and oldest.sequence.length < lost

    def _take(self, idle: _Idle, prompt: Seq[int]) -> Sequence:
        """An inactive sequence, brought back to what it has in common with the prompt."""
        self._idle.remove(idle)
        self._busy[idle.sequence] = idle.scope
        try:
            idle.sequence.keep(prompt)
        except BaseException:
            self.release(idle.sequence, None, keep=False)
            raise
        self.counters.reused += 1
        return idle.sequence

    def release(self, sequence: Sequence, session_id: str | None, keep: bool) -> None:
        """Takes a sequence back.

        Args:
            session_id: Of whose conversation it is now the latest.
            keep: Whether it stays, inactive, for a follow-up; otherwise its state is freed.
        """
        scope = self._busy.pop(sequence)
        if not keep or self.ttl == 0 or sequence.phase is SequencePhase.POISONED:
            self._retire(sequence)
            return
        sequence.pause()
        for idle in self._idle:
            if session_id is not None and (idle.session_id, idle.scope) == (session_id, scope):
                idle.session_id = None
        self._idle.append(_Idle(sequence, session_id, scope, time.monotonic()))

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

    def find(self, session_id: str, scope: str | None = None) -> Sequence | None:
        """The inactive sequence of a conversation."""
        name = (session_id, scope)
        return next((i.sequence for i in self._idle if (i.session_id, i.scope) == name), None)

    def restore(self, path: Path, session_id: str, scope: str | None = None) -> int:
        """Adds a saved sequence to the inactive ones; returns its length.

        Raises:
            InputError: no such file, damaged, or of another artifact; or no memory for it now.
        """
        sequence = self._fresh(None)
        if sequence is None:
            raise InputError("no memory for another sequence", "wait for a request to end")
        self._busy[sequence] = scope
        try:
            sequence.restore(path)
        except BaseException:
            self.release(sequence, None, keep=False)
            raise
        self.release(sequence, session_id, keep=True)
        return sequence.length

    def _best(
        self, prompt: Seq[int], session_id: str | None, scope: str | None
    ) -> tuple[Sequence | None, int]:
        """The sequence with the longest usable prefix, and that; of equals the session's own.

        A sequence in use can be copied, so what it holds must be that of the prefix too.
        """
        best: tuple[int, bool, Sequence | None] = (0, False, None)
        unusable = 0
        for idle in self._idle:
            if idle.scope != scope:
                continue
            length = idle.sequence.reusable(prompt)
            unusable = max(unusable, idle.sequence.common(prompt))
            own = session_id is not None and idle.session_id == session_id
            if (length, own) > best[:2]:
                best = (length, own, idle.sequence)
        for sequence, its_scope in self._busy.items():
            unusable_now = sequence.phase in (SequencePhase.POISONED, SequencePhase.RETIRED)
            if unusable_now or its_scope != scope:
                continue
            length = sequence.copyable(prompt)
            if length > best[0]:
                best = (length, False, sequence)
        multiple = self._program.manifest.prompt.multiple_of
        if (lost := unusable - unusable % multiple - best[0]) > 0:
            kinds = {b.kind for b in self._program.manifest.state if b.kind != "attention"}
            _log.info(
                "%d common tokens are computed again: a state of the kind %s cannot be taken back",
                lost,
                ", ".join(sorted(kinds)),
            )
        return best[2], best[0]

    def _fresh(self, keep: _Idle | None) -> Sequence | None:
        """An empty sequence, from the budget or at the cost of the oldest inactive one.

        Args:
            keep: One that is not given up for it.
        """
        while True:
            held = (len(self._busy) + len(self._idle)) * self.sequence_bytes
            oldest = next((idle for idle in self._idle if idle is not keep), None)
            if held + self.sequence_bytes <= self.budget:
                try:
                    sequence = Sequence(self._program)
                except DeviceError:
                    # The budget was too much. What others hold may do.
                    if not self._idle and not self._busy:
                        raise
                else:
                    self.counters.created += 1
                    return sequence
            if oldest is None:
                return None
            self._idle.remove(oldest)
            self._retire(oldest.sequence)
            self.counters.evicted += 1

    def _retire(self, sequence: Sequence) -> None:
        sequence.retire()
        self.counters.retired += 1


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"
