"""A sequence: the tokens it holds, the device state they left, and the phase it is in."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgec.errors import DeviceError, InputError
from edgec.runtime.interfaces import CompiledProgram, Output, State
from edgec.runtime.phases import PhaseCounters, PhaseLog, SequencePhase
from edgec.runtime.snapshot import read_snapshot, write_snapshot
from edgec.runtime.state import saved_sizes

__all__ = ["PADDING_TOKEN", "Sequence", "Step", "check_ids", "step_together"]

_T = TypeVar("_T")

PADDING_TOKEN = 0
"""Fills a prompt block up to its multiple. Any id would do: padding never reaches a result."""


class Step:
    """The result of a call: read from the device when asked for, the token once.

    The call may still be queued or running; reading waits for it. If it failed, that is where the
    error shows, and its sequence is poisoned.
    """

    def __init__(self, output: Output, log: PhaseLog) -> None:
        self._output = output
        # Not the sequence: what holds device memory must not wait for a garbage collection.
        self._log = log
        self._counters = log.current
        self._token: int | None = None

    def token(self) -> int:
        """The greedy next token (the argmax of the logits); -1 where they are not finite."""
        if self._token is None:
            self._token = self._read(self._output.token)
            self._counters.bytes += 4
        return self._token

    def logits(self) -> npt.NDArray[np.float32]:
        """The logits after the last token, f32[V], as a new array."""
        logits = self._read(self._output.logits)
        self._counters.bytes += logits.nbytes
        return logits

    def wait(self) -> None:
        """Waits until the call is done."""
        self._read(self._output.wait)

    def _read(self, read: Callable[[], _T]) -> _T:
        start = time.perf_counter()
        try:
            return read()
        except Exception:
            self._log.poison()
            raise
        finally:
            self._counters.seconds += time.perf_counter() - start


class Sequence:
    """One sequence on a loaded program. Not safe to use from two threads at once.

    A Ctrl-C may interrupt any method. What it left half done is put right at the next use: the
    sequence goes back to before the method, or is poisoned where the state may have moved on.

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
        self._prompt = manifest.prompt
        self._log = PhaseLog()
        self._switches = manifest.model.rope_switches
        self._passed = 0  # how many of these the rows held were computed for, see `_differs`
        self._tokens: list[int] = []
        self._last: Step | None = None
        # The position of a token that was fed back unread, and the result that has it.
        self._unread: tuple[int, Step] | None = None
        # Set while a method changes anything: by which thread, and to how many tokens the sequence
        # can go back if the method never ends; None: it cannot.
        self._changing: tuple[int, int | None] | None = None
        # Down to how many tokens they can be taken back: rings have overwritten what is older.
        self._shortest = 0
        self._rings = {(b.shape[0], b.window): b for b in manifest.state if b.window}.values()
        self._checkpoint = 0  # how many tokens the state held then; 0: none was taken
        self._decoded = False  # whether the last token is from a step, not from a prompt
        self._state: State = program.create_state()

    @property
    def phase(self) -> SequencePhase:
        self._recover()
        return self._log.phase

    @property
    def interrupted(self) -> bool:
        """Whether a Ctrl-C poisoned it, and not a failure: then a reset is all it needs."""
        self._recover()
        return self._log.phase is SequencePhase.POISONED and self._log.interrupted

    @property
    def counters(self) -> Mapping[SequencePhase, PhaseCounters]:
        """The totals of each phase since the sequence was made."""
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
        """Whether all tokens from `length` on can be taken back by leaving the state as it is.

        That is so at any length where every buffer has a row per position, near the end where a
        sliding window's ring has overwritten older rows, and at the end only otherwise.
        """
        if length == self.length:
            return True
        rows = all(buffer.has_rows for buffer in self._program.manifest.state)
        return rows and (length == 0 or length >= self._shortest)

    def _can_roll_back(self) -> bool:
        """Whether there is a checkpoint, and the rows that it did not copy are still there."""
        copied = all(ring.checkpoint_rows for ring in self._rings)
        return self._checkpoint > 0 and (copied or self._checkpoint >= self._shortest)

    def _writes(self, end: int) -> None:
        """Notes a call that will have written rows up to position `end`, padding included."""
        for ring in self._rings:
            self._shortest = max(self._shortest, ring.shortest(end))

    def extend(self, tokens: Seq[int], *, checkpoint: bool = False) -> Step:
        """Computes a prompt, or new input after what the state holds, in padded chunks.

        Args:
            tokens: At least one token id; any number that still fits in the context.
            checkpoint: Whether to take one near the end, where the prompt can be gone back to.

        Returns:
            The result after the last token.

        Raises:
            InputError: no tokens, an id outside the vocabulary, or more than the context holds.
            DeviceError: a chunk failed (the sequence is poisoned), or it is retired or poisoned.
        """
        return deque(self.chunks(tokens, checkpoint=checkpoint), maxlen=1)[0]

    def chunks(self, tokens: Seq[int], *, checkpoint: bool = False) -> Iterator[Step]:
        """`extend` chunk by chunk: each `next` queues one and gives its result.

        Nothing else may be done with the sequence until the last one is queued; what was queued
        until then is held.
        """
        self.check_tokens(tokens)
        self._check_room(len(tokens))
        self.pause()
        total = self.length + len(tokens)
        if self._differs(total):
            tokens = [*self._known(), *tokens]
            self._forget()
        self._passed = self._passes(total)
        self._log.enter(SequencePhase.FOLLOW_UP_PREFILL if self._tokens else SequencePhase.PREFILL)
        start = len(self._tokens)
        # The end in whole blocks: where `reusable` goes back to when the same prompt comes again.
        mark = max(0, self._aligned(start + len(tokens) - 1) - start) if checkpoint else -1
        first = 0
        while first < len(tokens):
            if first == mark:
                self.checkpoint()
            size = self._prompt.max
            if first < mark and self._needs_checkpoint:
                size = min(size, mark - first)
            yield self._prefill(tokens[first : first + size], total)
            first += size

    def _passes(self, total: int) -> int:
        """How many of the lengths at which positions are encoded otherwise lie below a length."""
        return bisect_left(self._switches, total)

    def _differs(self, total: int) -> bool:
        """Whether a sequence of that length has other rows for the tokens held than these."""
        return bool(self._tokens) and self._passed != self._passes(total)

    def _forget(self) -> None:
        """Goes back to no tokens, the cheapest way."""
        if self.can_truncate(0):
            self.truncate(0)
        else:
            self.reset()

    def step(self, token: int | Step) -> Step:
        """Computes one token.

        Args:
            token: Its id; or the last result, for its greedy token wherever that lies: then
                nothing waits for it.

        Raises:
            InputError: an id outside the vocabulary, or the context is full.
            DeviceError: the step failed (the sequence is poisoned), or it is retired or poisoned.
        """
        return step_together([(self, token)])[0]

    def pause(self) -> None:
        """Ends the turn: nothing runs, the state stays in memory for a follow-up."""
        if self._log.working:
            self._log.enter(SequencePhase.INACTIVE if self._tokens else SequencePhase.CREATED)

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
        if length == self.length:
            return
        self._known()
        if self.can_truncate(length):
            self._begin_change(length)
            self._go_back(length)
            self._changing = None
        else:
            if length == 0 or length != self._checkpoint or not self._can_roll_back():
                raise InputError(
                    f"this model's state cannot be rolled back to {length} tokens",
                    "reset the sequence",
                )
            with self._all_or_poisoned():
                self._state.rollback()
                self._shortest = length
                self._go_back(length)

    def reusable(self, prompt: Seq[int]) -> int:
        """How many of a prompt's first tokens the state holds and could be brought back to.

        At least one token is left to compute: it is what yields the logits. And whole blocks only,
        so that the rest is computed as it is in a new sequence: the same prompt gives the same
        logits. The end of an answer is what a state without rows has besides its checkpoint.
        """
        if length := self.copyable(prompt):
            return length
        common = self.common(prompt)
        return self._checkpoint if self._checkpoint <= common and self._can_roll_back() else 0

    def copyable(self, prompt: Seq[int]) -> int:
        """The part of `reusable` that is there without going back to the checkpoint."""
        common = self.common(prompt)
        aligned = self._aligned(common)
        if self.can_truncate(aligned):
            return aligned
        return common if self._decoded and common == self.length else 0

    def _aligned(self, length: int) -> int:
        return length - length % self._prompt.multiple_of

    def common(self, prompt: Seq[int]) -> int:
        """How many tokens a prompt has in common with what the state holds, all but its last.

        0 where the length of the prompt gives these tokens other rows.
        """
        if self._differs(len(prompt)):
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
            self._forget()
        return length

    def checkpoint(self) -> None:
        """Lets the state be taken back to where it is now, however far it goes on.

        Costs a copy of what has no row per position, and of the windows of rings. Does nothing
        where there is nothing of either. There is one checkpoint: the last.
        """
        length = self.length
        if self._needs_checkpoint and length and length != self._checkpoint:
            self._checkpoint = 0  # an interrupt may leave half a copy
            self._state.checkpoint(length)
            self._checkpoint = length

    @property
    def _needs_checkpoint(self) -> bool:
        return any(buffer.checkpoint_rows for buffer in self._program.manifest.state)

    def copy_prefix(self, other: Sequence, length: int) -> None:
        """Takes over the first `length` tokens of another sequence, which stays as it is.

        Raises:
            InputError: this one is not empty, or the other could not be truncated to `length`.
            DeviceError: the copy failed, or one of the two is retired or poisoned.
        """
        self._check_usable()
        other._check_usable()
        if self._tokens or not other.can_truncate(length):
            raise InputError(f"{length} of {other.length} tokens cannot be taken over")
        tokens = other.tokens[:length]
        with self._all_or_poisoned():
            self._state.copy_from(other._state, length)
            self._hold_again(tokens, other._shortest, other._passed)
            self._decoded = other._decoded

    def save(self, path: str | Path) -> None:
        """Writes tokens and state into a file, for `restore`.

        Raises:
            InputError: there is nothing to save, or the file cannot be written.
            DeviceError: the sequence is retired or poisoned.
        """
        self._check_usable()
        if not self._tokens:
            raise InputError("an empty sequence has nothing to save")
        if self._differs(self.length):
            tokens = list(self._known())
            self._forget()
            self.extend(tokens)
        digest = self._program.manifest.digest
        rows = self._state.read(self.length)
        write_snapshot(Path(path), digest, self._known(), self._shortest, rows)

    def restore(self, path: str | Path) -> None:
        """Takes over, in place of what it holds, a sequence that was saved with this artifact.

        Raises:
            InputError: no such file, damaged, or of another artifact; nothing has changed.
            DeviceError: the sequence is retired, or the device failed.
        """
        manifest = self._program.manifest
        tokens, shortest, buffers = read_snapshot(
            Path(path), manifest.digest, self.context, partial(saved_sizes, manifest.state)
        )
        try:
            check_ids(tokens, self.vocab_size)
        except InputError as error:
            raise InputError(f"{path}: {error.what}") from None
        self.reset()
        with self._all_or_poisoned():
            self._state.write(buffers, len(tokens))
            self._hold_again(tokens, shortest, self._passes(len(tokens)))

    def _hold_again(self, tokens: Seq[int], shortest: int, passed: int) -> None:
        """Counts as held what was not computed here."""
        if tokens:
            self._tokens = list(tokens)
            self._shortest = shortest
            self._passed = passed
            self._decoded = True  # as far as anybody knows
            self._log.enter(SequencePhase.INACTIVE)

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

    def check_tokens(self, tokens: Seq[int]) -> None:
        """Whether the sequence could compute such tokens, room aside.

        Raises:
            InputError: there are none, or an id is outside the vocabulary.
            DeviceError: the sequence is retired or poisoned.
        """
        self._check_usable()
        check_ids(tokens, self.vocab_size)

    def _check_room(self, count: int) -> None:
        if self.length + count > self.context:
            raise InputError(
                f"{count} tokens after {self.length} are beyond the context of {self.context}",
                "shorten the input, or compile with a larger --ctx-size",
            )

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
        if way_back is None or not all(buffer.has_rows for buffer in self._program.manifest.state):
            self._log.poison(interrupted=True)
            return
        # Attention rows past the length are never read, and a ring has room for a call.
        self._go_back(way_back)
        self._changing = None

    def _go_back(self, length: int) -> None:
        """Holds the first `length` tokens only, and rests."""
        self._last = None
        if length < self._checkpoint:
            self._checkpoint = 0
        if self._unread is not None and self._unread[0] >= length:
            self._unread = None
        del self._tokens[length:]
        if length == 0:
            self._shortest = 0
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

    def _prefill(self, tokens: Seq[int], total: int) -> Step:
        # One token too: its logits as a decode step are others, in the last bits or in more.
        multiple = self._prompt.multiple_of
        size = max(self._prompt.min, -(-len(tokens) // multiple) * multiple)
        block = np.full((1, size), PADDING_TOKEN, np.int32)
        block[0, : len(tokens)] = tokens
        start = len(self._known())
        self._writes(start + size)
        self._begin_change(start)
        (output,) = _run(
            [self], lambda: [self._program.prefill(block, start, len(tokens), self._state, total)]
        )
        self._log.current.bytes += block.nbytes
        self._decoded = False
        return self._hold(tokens, size, output)

    def _begin_step(self, token: int | Step) -> tuple[int | Output, int, State]:
        """Checks a step and says what the program needs for it."""
        self._check_usable()
        last = self._last
        if isinstance(token, Step):
            if token is not last:
                raise InputError("a step goes on from the sequence's last result only")
        else:
            check_ids([token], self.vocab_size)
        self._check_room(1)
        if isinstance(token, Step):
            return token._output, self.length, self._state
        if last is not None and token == last._token:
            return last._output, self.length, self._state
        return int(token), self.length, self._state

    def _end_step(self, token: int | Step, copied: bool, output: Output) -> Step:
        self._known()
        if isinstance(token, Step):
            self._unread = (len(self._tokens), token) if token._token is None else None
            token = token._token or 0
        self._log.current.bytes += 4 * copied
        self._decoded = True
        return self._hold([token], 1, output)

    def _hold(self, tokens: Seq[int], padded: int, output: Output) -> Step:
        """Counts the tokens of a call that was queued as held."""
        counters = self._log.current
        counters.calls += 1
        counters.tokens += len(tokens)
        counters.padded_tokens += padded
        self._tokens += [int(token) for token in tokens]
        self._last = Step(output, self._log)
        self._changing = None
        return self._last


def check_ids(ids: Seq[int], vocab_size: int) -> None:
    """Refuses token ids that a model cannot take.

    Raises:
        InputError: there are none, or an id is outside the vocabulary.
    """
    if len(ids) == 0:
        raise InputError("empty prompt: at least one token is needed")
    low, high = min(ids), max(ids)
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        raise InputError(f"token id {bad}: the vocabulary has ids 0 to {vocab_size - 1}")


def step_together(steps: Seq[tuple[Sequence, int | Step]]) -> list[Step]:
    """Computes one token of each of several sequences on one program, in one call.

    Args:
        steps: Sequences, no more than the largest batch of the program, and their tokens as in
            `Sequence.step`.

    Raises:
        InputError: an id outside the vocabulary, or a context is full; nothing has changed.
        DeviceError: the call failed and all the sequences are poisoned, or one of them is
            retired or poisoned.
    """
    calls = [sequence._begin_step(token) for sequence, token in steps]
    if any(sequence._differs(sequence.length + 1) for sequence, _ in steps):
        return _step_past_switches(steps)
    for sequence, _ in steps:
        length = len(sequence._tokens)
        sequence._begin_change(length)
        sequence._passed = sequence._passes(length + 1)
        sequence._log.enter(SequencePhase.DECODE)
        sequence._writes(length + 1)
    sequences = [sequence for sequence, _ in steps]
    outputs = _run(sequences, lambda: sequences[0]._program.decode(calls))
    return [
        sequence._end_step(token, isinstance(call[0], int), output)
        for (sequence, token), call, output in zip(steps, calls, outputs, strict=True)
    ]


def _step_past_switches(steps: Seq[tuple[Sequence, int | Step]]) -> list[Step]:
    """`step_together` where some sequences get so long that all their rows are other ones.

    Their tokens are computed again, each sequence's by itself.
    """
    again = [step for step in steps if step[0]._differs(step[0].length + 1)]
    others = [step for step in steps if step not in again]
    results = {
        id(sequence): sequence.extend([token.token() if isinstance(token, Step) else token])
        for sequence, token in again
    }
    if others:
        stepped = step_together(others)
        results |= {id(s): step for (s, _), step in zip(others, stepped, strict=True)}
    return [results[id(sequence)] for sequence, _ in steps]


def _run(sequences: Seq[Sequence], call: Callable[[], Seq[Output]]) -> Seq[Output]:
    """Queues a call of sequences that are in a working phase."""
    start, counters = time.perf_counter(), [sequence._log.current for sequence in sequences]
    try:
        return call()
    except Exception:
        for sequence in sequences:
            sequence._log.poison()
            sequence._changing = None
        raise
    finally:
        for counter in counters:
            counter.seconds += time.perf_counter() - start
