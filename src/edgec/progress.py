"""How a compile tells what it does; the command line shows it live."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """Receives the stages of a compile."""

    def stage(self, name: str, detail: str = "") -> AbstractContextManager[None]:
        """Entered when a stage starts, left when it ends."""

    def update(self, done: int, total: int, unit: str) -> None:
        """Called within a stage whose size is known."""

    def note(self, text: str) -> None:
        """Called with a sentence that a user should read."""


class Silent:
    """Tells nothing."""

    def stage(self, name: str, detail: str = "") -> AbstractContextManager[None]:
        return nullcontext()

    def update(self, done: int, total: int, unit: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass
