"""The phases of a sequence, the transitions between them, and what is counted in each.

created ──► prefill ──► decode ◄──► inactive ──► follow-up prefill ──► decode …
               any ──► retired (memory freed)
               any ──► poisoned (a step failed) ──► created, by a reset
"""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgec.errors import DeviceError

__all__ = ["PhaseCounters", "PhaseLog", "SequencePhase"]


class SequencePhase(enum.Enum):
    """The present or last activity of a sequence; docs/state.md has what holds in each."""

    CREATED = "created"
    PREFILL = "prefill"
    DECODE = "decode"
    INACTIVE = "inactive"
    FOLLOW_UP_PREFILL = "follow_up_prefill"
    RETIRED = "retired"
    POISONED = "poisoned"


_P = SequencePhase
_WORKING = frozenset({_P.PREFILL, _P.DECODE, _P.FOLLOW_UP_PREFILL})
_ENDS = frozenset({_P.CREATED, _P.RETIRED, _P.POISONED})
_TRANSITIONS: dict[SequencePhase, frozenset[SequencePhase]] = {
    # decode from created: a prompt of one token, as benchmarks at depth 0 have it. inactive: what
    # another sequence held was copied, or restored from a file.
    _P.CREATED: frozenset({_P.PREFILL, _P.DECODE, _P.INACTIVE, _P.RETIRED, _P.POISONED}),
    _P.PREFILL: _ENDS | {_P.DECODE, _P.INACTIVE},
    _P.DECODE: _ENDS | {_P.DECODE, _P.INACTIVE},
    _P.INACTIVE: _ENDS | {_P.DECODE, _P.FOLLOW_UP_PREFILL},
    _P.FOLLOW_UP_PREFILL: _ENDS | {_P.DECODE, _P.INACTIVE},
    _P.POISONED: frozenset({_P.CREATED, _P.RETIRED}),
    _P.RETIRED: frozenset(),
}


@dataclass
class PhaseCounters:
    """The totals of a sequence in one phase since it was made.

    Args:
        entries: How often the phase was entered.
        calls: Entry-point calls.
        tokens: True tokens computed, without padding.
        padded_tokens: Tokens computed, with padding.
        seconds: Time in those calls; for inactive, time waited.
        bytes: Bytes copied between host and device: tokens there, tokens and logits back.
    """

    entries: int = 0
    calls: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    seconds: float = 0.0
    bytes: int = 0


class PhaseLog:
    """The phase a sequence is in, and the counters of all of them."""

    def __init__(self) -> None:
        self._counters = {phase: PhaseCounters() for phase in SequencePhase}
        self._phase = SequencePhase.CREATED
        self.interrupted = False
        """Whether a Ctrl-C poisoned the sequence, and not a failure."""
        self._counters[self._phase].entries = 1
        self._entered = time.perf_counter()

    @property
    def phase(self) -> SequencePhase:
        return self._phase

    @property
    def working(self) -> bool:
        """Whether the phase is one that computes."""
        return self._phase in _WORKING

    @property
    def current(self) -> PhaseCounters:
        """The counters of the phase."""
        return self._counters[self._phase]

    @property
    def counters(self) -> Mapping[SequencePhase, PhaseCounters]:
        return MappingProxyType(self._counters)

    def poison(self, *, interrupted: bool = False) -> None:
        """Notes that a call failed, or was interrupted: nothing is computed until a reset."""
        if self._phase not in (SequencePhase.POISONED, SequencePhase.RETIRED):
            self.interrupted = interrupted
            self.enter(SequencePhase.POISONED)

    def enter(self, phase: SequencePhase) -> None:
        """Goes to another phase; the steps of one decode phase are one entry.

        Raises:
            DeviceError: there is no such transition.
        """
        if phase not in _TRANSITIONS[self._phase]:
            raise DeviceError(f"a sequence cannot go from {self._phase.value} to {phase.value}")
        if phase is self._phase:
            return
        now = time.perf_counter()
        if self._phase is SequencePhase.INACTIVE:
            self.current.seconds += now - self._entered
        self._phase, self._entered = phase, now
        self.current.entries += 1
