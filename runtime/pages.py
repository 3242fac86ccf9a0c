"""Large pages for host memory that a step reads in strides.

The rows of a head lie kilobytes apart in the KV cache: with pages of 4 KB nearly every row is on
another one, and looking a page up, most of all in a virtual machine, takes longer than reading what
is needed of it. Linux backs memory by pages of 2 MB for those who ask.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable

__all__ = ["ask_for_large_pages"]

_MADV_HUGEPAGE = 14  # mmap has it only where Python was built with it


def ask_for_large_pages(regions: Iterable[tuple[int, int]]) -> None:
    """Advice about regions of memory, of which nothing was touched yet; Linux may do otherwise.

    Args:
        regions: Address and size in bytes of each. What is not a whole page of one is left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    for address, size in regions:
        begin = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE - begin
        if length > 0:
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), _MADV_HUGEPAGE)
