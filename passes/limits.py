"""Numbers that passes and the shapes of a sequence's buffers agree on."""

__all__ = ["CACHE_BLOCK", "LONGEST"]

LONGEST = 1 << 29
"""More tokens than any sequence has: positions, and sums of a few, fit in 32 bits."""

CACHE_BLOCK = 32
"""Rows of a cache are read in multiples of this; the buffers have as many spare rows."""
