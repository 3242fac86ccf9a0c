"""The result of a call of the program, which may still be queued."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgec.runtime.interfaces import Output
from edgec.runtime.phases import PhaseLog

__all__ = ["Step"]

_T = TypeVar("_T")


class Step:
    """The result of a call: read from the device when asked for, the token once.

    The call may still be queued or running; reading waits for it. If it failed, that is where the
    error shows, and its sequence is poisoned.
    """

    def __init__(self, output: Output, log: PhaseLog) -> None:
        self.output = output
        # Not the sequence: what holds device memory must not wait for a garbage collection.
        self._log = log
        self._counters = log.current
        self.known: int | None = None
        """The token, once it is read."""

    def token(self) -> int:
        """The greedy next token (the argmax of the logits); -1 where they are not finite."""
        if self.known is None:
            self.known = self._read(self.output.token)
            self._counters.bytes += 4
        return self.known

    def logits(self) -> npt.NDArray[np.float32]:
        """The logits after the last token, f32[V], as a new array."""
        logits = self._read(self.output.logits)
        self._counters.bytes += logits.nbytes
        return logits

    def wait(self) -> None:
        """Waits until the call is done."""
        self._read(self.output.wait)

    def _read(self, read: Callable[[], _T]) -> _T:
        start = time.perf_counter()
        try:
            return read()
        except Exception:
            self._log.poison()
            raise
        finally:
            self._counters.seconds += time.perf_counter() - start
