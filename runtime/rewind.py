"""To which lengths a sequence can go back, and what that costs.

A pure function of what the state buffers are (`StateBuffer`), of the calls that wrote them and of
the checkpoints taken: lengths only, no device and no bytes of the state. Prefix reuse, truncation
and saved state ask it.

    attention           to any length: rows past the length are never read
    window              as far as the ring has not come round
    conv, recurrent     to the end only
    all but attention   to a checkpoint, at the cost of copying it back
"""

from __future__ import annotations

import math
from bisect import bisect_left

from edgec.manifest import DTYPE_BYTES, Manifest

__all__ = ["Rewind"]


class Rewind:
    """Lengths that the state of one sequence can be brought back to.

    Every method is told how many tokens the state holds. Each change is one assignment, so that an
    interrupt leaves the old answer or the new one.

    Args:
        manifest: Its state buffers, prompt multiple, and the lengths at which positions change.
    """

    def __init__(self, manifest: Manifest) -> None:
        buffers = manifest.state
        self.floor = 0
        """The shortest length, besides none, for which rings still have all rows."""
        self.checkpoints: tuple[int, ...] = ()
        """The lengths at which the state was copied aside, rising."""
        self.decoded = False
        """Whether the last token held is from a decode step, not from a prompt."""
        self.passed = 0
        """How many lengths at which positions change the rows held were computed for."""
        self._multiple = manifest.prompt.multiple_of
        self.switches = manifest.model.rope_switches
        """The lengths past each of which positions are encoded otherwise; few models have any."""
        self._rings = tuple({(b.shape[0], b.window): b for b in buffers if b.window}.values())
        self._windows_copied = all(ring.checkpoint_rows for ring in self._rings)
        self.has_rows = all(buffer.has_rows for buffer in buffers)
        """Whether every buffer has a row per position."""
        self.checkpoint_bytes = sum(
            b.checkpoint_rows * math.prod(b.shape[1:]) * DTYPE_BYTES[b.dtype] for b in buffers
        )
        """Bytes that taking a checkpoint copies, and going back to it; 0: none is ever needed."""

    def cost(self, length: int, held: int) -> int | None:
        """Bytes that going back from `held` tokens to `length` copies; None: it is impossible.

        Going back to no tokens is always possible by zeroing the state, which is not counted here.
        """
        if length == held or (self.has_rows and (length == 0 or length >= self.floor)):
            return 0
        return self.checkpoint_bytes if self._restorable(length) else None

    def copyable(self, common: int, held: int) -> int:
        """The part of `common` first tokens that another prompt can use without going back.

        Whole blocks only, so that the rest is computed in the same blocks as in a new sequence, and
        the same prompt gives the same logits. State without rows has only its end, and that counts
        where an answer ended: those tokens were never computed in blocks.
        """
        blocks = self.aligned(common)
        if self.cost(blocks, held) == 0:
            return blocks
        return common if self.decoded and common == held else 0

    def reusable(self, common: int, held: int) -> int:
        """The part of `common` first tokens that another prompt can use, by going back there."""
        if length := self.copyable(common, held):
            return length
        return max((c for c in self.checkpoints if c <= common and self._restorable(c)), default=0)

    def aligned(self, length: int) -> int:
        """The whole blocks of a prompt that a length has."""
        return length - length % self._multiple

    def passes(self, total: int) -> int:
        """How many of the lengths at which positions change lie below a total length."""
        return bisect_left(self.switches, total)

    def differs(self, total: int, held: int) -> bool:
        """Whether a sequence of `total` tokens has other rows for the tokens held than these."""
        return held > 0 and self.passed != self.passes(total)

    def wrote(self, end: int) -> None:
        """Notes a call that writes rows up to position `end`, padding included."""
        for ring in self._rings:
            self.floor = max(self.floor, ring.shortest(end))

    def went_back(self, length: int, *, restored: bool = False) -> None:
        """Notes that tokens from `length` on are no longer held.

        Args:
            restored: Whether a checkpoint was copied back: rings hold nothing older then.
        """
        self.checkpoints = tuple(c for c in self.checkpoints if c <= length)
        if restored or length == 0:
            self.floor = length

    def _restorable(self, length: int) -> bool:
        """Whether there is a checkpoint, and the rows that it did not copy are still there."""
        return length in self.checkpoints and (self._windows_copied or length >= self.floor)
