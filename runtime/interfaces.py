"""What a sequence needs of a program. `LoadedProgram` is the one; tests bring others."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgec.manifest import Manifest

__all__ = ["CompiledProgram", "Output", "State"]


class Output(Protocol):
    """What an entry point returned, still on the device."""

    def token(self) -> int:
        """Reads back the greedy token (4 bytes)."""
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


class CompiledProgram(Protocol):
    """The two entry points of the manifest's calling convention, and the state they work on."""

    @property
    def manifest(self) -> Manifest: ...

    def create_state(self) -> State:
        """Zeroed state for one sequence."""
        ...

    def prefill(self, tokens: npt.NDArray[np.int32], start: int, length: int, state: Any) -> Output:
        """Runs a block i32[1, P] of which the first `length` tokens are true."""
        ...

    def decode(self, token: int | Output, start: int, state: Any) -> Output:
        """Runs one token. That of an earlier output stays on the device, an int is copied."""
        ...
