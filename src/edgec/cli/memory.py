"""How much memory a command has held at most, with the programs that it started."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType

__all__ = ["PeakMemory"]


class PeakMemory:
    """Watches this process and its descendants while the `with` block runs.

    getrusage does not do: on Linux a child's maximum starts from its parent's, and is that of
    the largest child, not of what ran at one time. `peak` is in bytes of resident memory, pages
    of mapped files among them; zero where there is no /proc.
    """

    def __init__(self, interval: float = 0.2) -> None:
        self.peak = 0
        self._interval = interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="peak-memory")

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, _own_peak())

    def _watch(self) -> None:
        while not self._done.wait(self._interval):
            self.peak = max(self.peak, _resident_with_descendants())


def _own_peak() -> int:
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(ln.split()[1]) * 1024 for ln in lines if ln.startswith("VmHWM:")), 0)


def _resident_with_descendants() -> int:
    """Resident bytes now; a process that ends meanwhile counts nothing."""
    parents: dict[int, int] = {}
    resident: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        fields = text.rpartition(")")[2].split()  # after the name, which may hold anything
        pid = int(entry.parent.name)
        parents[pid], resident[pid] = int(fields[1]), int(fields[21])
    page, me = os.sysconf("SC_PAGE_SIZE"), os.getpid()
    return page * sum(pages for pid, pages in resident.items() if _descends(pid, me, parents))


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = parents.get(pid, 0)
    return pid == ancestor
