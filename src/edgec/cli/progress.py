"""Progress of long steps: a live line on a terminal, one line a stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgec.cli.text import duration, size, stderr

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["StageProgress"]


class StageProgress:
    """Shows on stderr which stage of a compilation runs, for how long, and how far it is.

    Args:
        quiet: Show nothing.
        console: Where to write; stderr by default.
    """

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or stderr()
        self._quiet = quiet
        self._live: Progress | None = None
        self._tasks: list[TaskID] = []

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        """Runs one stage; it may contain others. A stage that fails prints no line of its own."""
        start = time.perf_counter()
        self._begin(name, detail)
        try:
            yield
        except BaseException:
            self._end()
            raise
        self._end()
        self._report(name, detail, time.perf_counter() - start)

    def update(self, done: int, total: int, unit: str = "") -> None:
        """Says how much of the running stage is done; `unit` is "B" for bytes, or a noun."""
        if self._live is None or not self._tasks:
            return
        if unit in ("B", "bytes"):
            amount = f"{size(done)} of {size(total)}"
        else:
            amount = f"{done} of {total} {unit}".rstrip()
        self._live.update(self._tasks[-1], amount=amount)

    def note(self, text: str) -> None:
        """Says a sentence on a line of its own, also when quiet: it is about a fault."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _begin(self, name: str, detail: str) -> None:
        if self._quiet or not self._console.is_terminal:
            return
        if self._live is None:
            self._live = _live(self._console)
            self._live.start()
        self._tasks.append(self._live.add_task(_styled(name, detail), total=None, amount=""))

    def _end(self) -> None:
        if self._live is None:
            return
        self._live.remove_task(self._tasks.pop())
        if not self._tasks:
            self._live.stop()
            self._live = None

    def _report(self, name: str, detail: str, seconds: float) -> None:
        if self._quiet:
            return
        if self._console.is_terminal:
            line = f"[green]✓[/] {_styled(name, detail)} [dim]{duration(seconds)}[/]"
            self._console.print(line, soft_wrap=True)
        else:
            words = f"{name} {detail}".rstrip()
            self._console.print(f"stage {words} ... {duration(seconds)}", markup=False)


def _styled(name: str, detail: str) -> str:
    from rich.markup import escape

    return f"{escape(name)} [dim]{escape(detail)}[/]" if detail else escape(name)


def _live(console: Console) -> Progress:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns: list[Any] = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("[dim]{task.fields[amount]}[/]"),
        TimeElapsedColumn(),
    ]
    return Progress(*columns, console=console, transient=True)
