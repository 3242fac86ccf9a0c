"""Protocols of a program as a sequence uses it. `LoadedProgram` is the one; tests bring others."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgec.manifest import Manifest

__all__ = ["CompiledProgram", "Output", "State"]


class Output(Protocol):
    """A queued call's result on the device for one sequence; reading it waits."""

    def wait(self) -> None:
        """Waits until the call is done."""
        ...

    def token(self) -> int:
        """Reads back the greedy token (4 bytes); -1 where the logits are not finite."""
        ...

    def logits(self) -> npt.NDArray[np.float32]:
        """Reads back the logits of the last true token, f32[V]; the caller owns the array."""
        ...


class State(Protocol):
    """Device memory of one sequence, see `StateBuffers`."""

    @property
    def nbytes(self) -> int: ...

    def zero(self) -> None: ...

    def free(self) -> None: ...

    def copy_from(self, other: Any, rows: int) -> None: ...

    def checkpoint(self, length: int) -> None: ...

    def rollback(self) -> None: ...

    def read(self, rows: int) -> list[npt.NDArray[np.uint8]]: ...

    def write(self, parts: Seq[npt.NDArray[np.uint8]], rows: int) -> None: ...


class CompiledProgram(Protocol):
    """The entry points of the manifest's calling convention, and the state they work on.

    Calls are queued, in order for each state, and return before they are done.
    """

    @property
    def manifest(self) -> Manifest: ...

    def create_state(self) -> State:
        """Zeroed state for one sequence."""
        ...

    def prefill(
        self, tokens: npt.NDArray[np.int32], start: int, length: int, state: Any, total: int
    ) -> Output:
        """Queues a block i32[1, P] of which the first `length` tokens are true.

        The sequence will have `total` tokens when all chunks of its prompt are done.
        """
        ...

    def decode(self, steps: Seq[tuple[int | Output, int, Any]]) -> Seq[Output]:
        """Queues one token of each sequence, given as (token, start, state), in one call.

        That of an earlier output stays on the device, an int is copied. The number of sequences
        is one of the manifest's batch sizes, or smaller than one.
        """
        ...
