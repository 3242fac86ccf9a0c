"""A sequence: prompts and single tokens are computed, each after what the state holds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from functools import partial
from pathlib import Path

import numpy as np

from edgec.errors import InputError
from edgec.runtime.held import HeldTokens
from edgec.runtime.interfaces import Output, State
from edgec.runtime.phases import SequencePhase
from edgec.runtime.snapshot import read_snapshot, write_snapshot
from edgec.runtime.state import saved_sizes
from edgec.runtime.step import Step

__all__ = ["PADDING_TOKEN", "Sequence", "check_ids", "step_together"]

PADDING_TOKEN = 0
"""Fills a prompt block up to its multiple. Any id would do: padding never reaches a result."""


class Sequence(HeldTokens):
    """One sequence on a loaded program. Not safe to use from two threads at once.

    Args:
        program: The loaded program; many sequences share it.

    Raises:
        DeviceError: no memory for the state.
    """

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
        if self._rewind.differs(total, len(self._tokens)):
            tokens = [*self._known(), *tokens]
            self.forget()
        self._rewind.passed = self._rewind.passes(total)
        self._log.enter(SequencePhase.FOLLOW_UP_PREFILL if self._tokens else SequencePhase.PREFILL)
        start = len(self._tokens)
        # The end in whole blocks: where `reusable` goes back to when the same prompt comes again.
        mark = max(0, self._rewind.aligned(start + len(tokens) - 1) - start) if checkpoint else -1
        first = 0
        while first < len(tokens):
            if first == mark:
                self.checkpoint()
            size = self._program.manifest.prompt.max
            if first < mark and self._rewind.checkpoint_bytes:
                size = min(size, mark - first)
            yield self._prefill(tokens[first : first + size], total)
            first += size

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
            self._hold_again(tokens, other._rewind.floor, other._rewind.passed)
            self._rewind.decoded = other._rewind.decoded

    def save(self, path: str | Path) -> None:
        """Writes tokens and state into a file, for `restore`.

        Raises:
            InputError: there is nothing to save, or the file cannot be written.
            DeviceError: the sequence is retired or poisoned.
        """
        self._check_usable()
        if not self._tokens:
            raise InputError("an empty sequence has nothing to save")
        if self._rewind.differs(self.length, self.length):
            tokens = list(self._known())
            self.forget()
            self.extend(tokens)
        digest = self._program.manifest.digest
        rows = self._state.read(self.length)
        write_snapshot(Path(path), digest, self._known(), self._rewind.floor, rows)

    def restore(self, path: str | Path) -> None:
        """Takes over, in place of what it holds, a sequence that was saved with this artifact.

        Raises:
            InputError: no such file, damaged, or of another artifact; nothing has changed.
            DeviceError: the sequence is retired, or the device failed.
        """
        manifest = self._program.manifest
        tokens, floor, buffers = read_snapshot(
            Path(path), manifest.digest, self.context, partial(saved_sizes, manifest.state)
        )
        try:
            check_ids(tokens, self.vocab_size)
        except InputError as error:
            raise InputError(f"{path}: {error.what}") from None
        self.reset()
        with self._all_or_poisoned():
            self._state.write(buffers, len(tokens))
            self._hold_again(tokens, floor, self._rewind.passes(len(tokens)))

    def _hold_again(self, tokens: Seq[int], floor: int, passed: int) -> None:
        """Counts as held what was not computed here."""
        if tokens:
            self._tokens = list(tokens)
            self._rewind.floor, self._rewind.passed = floor, passed
            self._rewind.decoded = True  # as far as anybody knows
            self._log.enter(SequencePhase.INACTIVE)

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

    def _prefill(self, tokens: Seq[int], total: int) -> Step:
        # One token too: its logits as a decode step are others, in the last bits or in more.
        multiple = self._program.manifest.prompt.multiple_of
        size = max(self._program.manifest.prompt.min, -(-len(tokens) // multiple) * multiple)
        block = np.full((1, size), PADDING_TOKEN, np.int32)
        block[0, : len(tokens)] = tokens
        start = len(self._known())
        self._rewind.wrote(start + size)
        self._begin_change(start)
        (output,) = _run(
            [self], lambda: [self._program.prefill(block, start, len(tokens), self._state, total)]
        )
        self._log.current.bytes += block.nbytes
        self._rewind.decoded = False
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
            return token.output, self.length, self._state
        if last is not None and token == last.known:
            return last.output, self.length, self._state
        return int(token), self.length, self._state

    def _differs_after_step(self) -> bool:
        """Whether one more token gives those held other rows."""
        return self._rewind.differs(len(self._tokens) + 1, len(self._tokens))

    def _end_step(self, token: int | Step, copied: bool, output: Output) -> Step:
        self._known()
        if isinstance(token, Step):
            self._unread = (len(self._tokens), token) if token.known is None else None
            token = token.known or 0
        self._log.current.bytes += 4 * copied
        self._rewind.decoded = True
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
    switches = steps[0][0]._rewind.switches
    if switches and any(sequence._differs_after_step() for sequence, _ in steps):
        return _step_past_switches(steps)
    for sequence, _ in steps:
        length = len(sequence._tokens)
        sequence._begin_change(length)
        if switches:
            sequence._rewind.passed = sequence._rewind.passes(length + 1)
        sequence._log.enter(SequencePhase.DECODE)
        sequence._rewind.wrote(length + 1)
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
    again = [step for step in steps if step[0]._differs_after_step()]
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
