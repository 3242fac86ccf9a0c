"""Work on tensors, block by block, on all cores.

Torch's own threads share each operation and wait for one another after it, which on a busy machine
takes longer than the operation. Here a thread takes a block through all its operations alone, and
only the blocks that are being worked on exist.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

__all__ = ["for_each"]


def for_each(work: Callable[[int], None], blocks: Iterable[int]) -> None:
    """Calls `work` with each block's number or start, several at a time, and waits for all.

    Where the work writes must not depend on the order. Do not call it from `work`.

    Raises:
        What `work` raised for the first block in order that failed, after all have ended.
    """
    pending = [_pool().submit(work, block) for block in blocks]
    for future in pending:
        future.exception()
    for future in pending:
        future.result()


_THREADS = torch.get_num_threads()  # as many as torch would use, asked before anyone sets it


@functools.cache
def _pool() -> ThreadPoolExecutor:
    threads = torch.get_num_threads()
    all_started = threading.Barrier(_THREADS)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first question, or operation, makes it this thread's own
        all_started.wait()

    pool = ThreadPoolExecutor(_THREADS, "blocks", initializer=start)
    for future in [pool.submit(int) for _ in range(_THREADS)]:
        future.result()
    # The number is each thread's own, but also the default of threads to come.
    torch.set_num_threads(threads)
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
