"""The content of a sequence: tokens, their state on the device, a phase; and taking them back."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from edgec.errors import DeviceError, InputError
from edgec.runtime.interfaces import CompiledProgram, State
from edgec.runtime.phases import PhaseCounters, PhaseLog, SequencePhase
from edgec.runtime.rewind import Rewind
from edgec.runtime.step import Step

__all__ = ["HeldTokens"]


class HeldTokens:
    """The tokens that a state holds, for `Sequence`, which computes them.

    A Ctrl-C may interrupt any method. What it left half done is put right at the next use: the
    tokens go back to those before the method, or the phase is poisoned where the state may have
    moved on.

    Args:
        program: The loaded program; many sequences share it.

    Raises:
        DeviceError: no memory for the state.
    """

    def __init__(self, program: CompiledProgram) -> None:
        manifest = program.manifest
        self.context = manifest.model.context
        self.vocab_size = manifest.model.vocab_size
        self._program = program
        self._log = PhaseLog()
        self._rewind = Rewind(manifest)
        self._tokens: list[int] = []
        self._last: Step | None = None
        # The position of a token that was fed back unread, and the result that has it.
        self._unread: tuple[int, Step] | None = None
        # Set while a method changes anything: by which thread, and to how many tokens the sequence
        # can go back if the method never ends; None: it cannot.
        self._changing: tuple[int, int | None] | None = None
        self._state: State = program.create_state()

    @property
    def phase(self) -> SequencePhase:
        """The present or last activity."""
        self._recover()
        return self._log.phase

    @property
    def interrupted(self) -> bool:
        """Whether a Ctrl-C poisoned it, and not a failure: then a reset is all it needs."""
        self._recover()
        return self._log.phase is SequencePhase.POISONED and self._log.interrupted

    @property
    def counters(self) -> Mapping[SequencePhase, PhaseCounters]:
        """Totals of each phase since the sequence was made."""
        return self._log.counters

    @property
    def tokens(self) -> tuple[int, ...]:
        """The token ids that the state holds. Waits for the last, where it is not read yet."""
        self._recover()
        return tuple(self._known())

    @property
    def length(self) -> int:
        """How many tokens the state holds; the position of the next one."""
        self._recover()
        return len(self._tokens)

    def expert_counts(self) -> list[npt.NDArray[np.int64]]:
        """How many tokens each expert of each layer got since the state was empty, i64[experts].

        Empty unless compiled with `expert_stats`. Waits for all calls. A prefix that came from
        another sequence's state brings its counts along.
        """
        specs = self._program.manifest.state
        if not any(spec.kind == "expert_counts" for spec in specs):
            return []
        parts = zip(specs, self._state.read(0), strict=True)
        counted = [part for spec, part in parts if spec.kind == "expert_counts"]
        return [part.view(np.float32).astype(np.int64) for part in counted]

    @property
    def state_bytes(self) -> int:
        """Device memory that this sequence holds; 0 once retired."""
        return self._state.nbytes

    def can_truncate(self, length: int) -> bool:
        """Whether all tokens from `length` on can be taken back by leaving the state as it is."""
        return self._rewind.cost(length, self.length) == 0

    def reusable(self, prompt: Seq[int]) -> int:
        """How many of a prompt's first tokens the state holds and could be brought back to.

        At least one token is left to compute: it is what yields the logits.
        """
        return self._rewind.reusable(self.common(prompt), self.length)

    def copyable(self, prompt: Seq[int]) -> int:
        """How many of a prompt's first tokens could be copied without changing this sequence."""
        return self._rewind.copyable(self.common(prompt), self.length)

    def common(self, prompt: Seq[int]) -> int:
        """How many tokens a prompt has in common with what the state holds, all but its last.

        0 where the length of the prompt gives these tokens other rows.
        """
        if self._rewind.differs(len(prompt), self.length):
            return 0
        held, limit = self._known(), min(self.length, len(prompt) - 1)
        return next((i for i in range(limit) if held[i] != prompt[i]), limit)

    def keep(self, prompt: Seq[int]) -> int:
        """Brings the state back to what is `reusable` for a prompt, and says how much that is.

        Raises:
            DeviceError: the sequence is retired or poisoned.
        """
        self._check_usable()
        length = self.reusable(prompt)
        if length:
            self.truncate(length)
        else:
            self.forget()
        return length

    def truncate(self, length: int) -> None:
        """Takes back all tokens from position `length` on.

        Rows past the length are never read, so nothing is cleared.

        Raises:
            InputError: `length` is outside 0 to the current length, or the model's state cannot
                be rolled back (see `can_truncate`).
            DeviceError: the sequence is retired or poisoned.
        """
        self._check_usable()
        if not 0 <= length <= self.length:
            raise InputError(f"truncate to {length}: the sequence holds {self.length} tokens")
        cost = self._rewind.cost(length, self.length)
        if cost is None:
            raise InputError(
                f"this model's state cannot be rolled back to {length} tokens",
                "reset the sequence",
            )
        if length == self.length:
            return
        self._known()
        if cost == 0:
            self._begin_change(length)
            self._go_back(length)
            self._changing = None
        else:
            with self._all_or_poisoned():
                self._state.rollback()
                self._go_back(length, restored=True)

    def checkpoint(self) -> None:
        """Lets the state be taken back to where it is now, however far it goes on.

        Does nothing where every length can be gone back to. There is one checkpoint: the last.
        """
        length, rewind = self.length, self._rewind
        if rewind.checkpoint_bytes and length and length not in rewind.checkpoints:
            rewind.checkpoints = ()  # an interrupt may leave half a copy
            self._state.checkpoint(length)
            rewind.checkpoints = (length,)

    def pause(self) -> None:
        """Ends the turn: nothing runs, the state stays in memory for a follow-up."""
        if self._log.working:
            self._log.enter(SequencePhase.INACTIVE if self._tokens else SequencePhase.CREATED)

    def reset(self) -> None:
        """Forgets all tokens and zeroes the state; also heals a poisoned sequence.

        Raises:
            DeviceError: the sequence is retired, or the device failed again.
        """
        if self._log.phase is SequencePhase.RETIRED:
            raise DeviceError("the sequence is retired", "make a new one")
        with self._all_or_poisoned():
            self._state.zero()
            self._go_back(0)
            if self._log.phase is SequencePhase.POISONED:
                self._log.enter(SequencePhase.CREATED)

    def retire(self) -> None:
        """Ends the sequence and frees its state at once. Can be called again."""
        if self._log.phase is not SequencePhase.RETIRED:
            self._log.enter(SequencePhase.RETIRED)
        self._changing = self._last = self._unread = None
        self._tokens.clear()
        self._state.free()

    def forget(self) -> None:
        """Goes back to no tokens, the cheapest way."""
        if self.can_truncate(0):
            self.truncate(0)
        else:
            self.reset()

    def _check_usable(self) -> None:
        if self.phase is SequencePhase.POISONED:
            why = "it was interrupted" if self._log.interrupted else "an earlier step failed"
            raise DeviceError(f"the sequence is poisoned: {why}", "reset it")
        if self.phase is SequencePhase.RETIRED:
            raise DeviceError("the sequence is retired", "make a new one")
        if self._changing is not None:
            # Not ours: what this thread was interrupted in has been put right by now.
            raise DeviceError("the sequence is in use by another thread", "use one for each")

    def _begin_change(self, way_back: int | None) -> None:
        """Says that what follows is to be put right if interrupted before `_changing` is None."""
        self._changing = (threading.get_ident(), way_back)

    @contextmanager
    def _all_or_poisoned(self) -> Iterator[None]:
        """A change of the state itself, from which there is no way back."""
        self._begin_change(None)
        try:
            yield
        except Exception:
            self._log.poison()
            self._changing = None
            raise
        self._changing = None

    def _recover(self) -> None:
        """Puts right what a Ctrl-C left half done. Can itself be interrupted and called again."""
        if self._changing is None:
            return
        if self._log.phase in (SequencePhase.POISONED, SequencePhase.RETIRED):
            return
        thread, way_back = self._changing
        if thread != threading.get_ident():
            return  # half done as yet
        if way_back is None or not self._rewind.has_rows:
            self._log.poison(interrupted=True)
            return
        # Attention rows past the length are never read, and a ring has room for a call.
        self._go_back(way_back)
        self._changing = None

    def _go_back(self, length: int, *, restored: bool = False) -> None:
        """Holds the first `length` tokens only, and rests."""
        self._last = None
        self._rewind.went_back(length, restored=restored)
        if self._unread is not None and self._unread[0] >= length:
            self._unread = None
        del self._tokens[length:]
        self.pause()
        if not self._tokens and self._log.phase is SequencePhase.INACTIVE:
            self._log.enter(SequencePhase.CREATED)

    def _known(self) -> list[int]:
        """The ids held, with the last one read if it was fed back unread."""
        if self._unread is not None:
            position, step = self._unread
            if position < len(self._tokens):
                self._tokens[position] = step.token()
            self._unread = None
        return self._tokens
