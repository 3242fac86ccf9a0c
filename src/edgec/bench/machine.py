"""A result's record of the machine it was measured on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["Load", "describe", "same_machine"]

_PACKAGES = ("edgec", "iree-base-runtime", "iree-base-compiler", "torch", "transformers", "numpy")


def describe() -> dict[str, Any]:
    """CPU, cores, memory, load, versions, commit and time of day, for the head of a result."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    cpuinfo = Path("/proc/cpuinfo")
    model = platform.processor()
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_average": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str:
    here = Path(__file__)
    try:
        # An installed file may lie inside a repository of something else.
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", here.name],
            cwd=here.parent, capture_output=True, check=True,
        )  # fmt: skip
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here.parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def same_machine(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Differences of two `describe()` results as machines; empty when they may be compared."""
    for key in ("cpu", "cores", "memory_gb", "system"):
        if one.get(key) != other.get(key):
            return f"{key}: {one.get(key)} and {other.get(key)}"
    return ""


@dataclass
class Load:
    """The load of the rest of the machine during a measurement (Linux; elsewhere nothing).

        with Load(pids) as load:
            ...
        load.others   # cores that other processes, or other guests of the host, kept busy

    Args:
        pids: The processes that are measured; with this one they are not "others".
    """

    pids: tuple[int, ...] = ()
    others: float = field(default=0.0, init=False)

    def __enter__(self) -> Load:
        self._before = self._sample()
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None or (after := self._sample()) is None:
            return
        seconds, busy, own = (b - a for a, b in zip(self._before, after, strict=True))
        # Ticks are 10 ms: a short sample says nothing.
        self.others = max(0.0, (busy - own) / seconds) if seconds >= 0.1 else 0.0

    def _sample(self) -> tuple[float, float, float] | None:
        """Time, and the seconds of processors that were busy so far, in all and with `pids`."""
        if not Path("/proc/stat").exists():
            return None
        tick = os.sysconf("SC_CLK_TCK")
        cpu = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _, _, irq, soft, steal = (int(value) for value in cpu[:8])
        own = 0
        for pid in (os.getpid(), *self.pids):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # gone
                continue
            own += int(fields[11]) + int(fields[12])
        return time.monotonic(), (user + nice + system + irq + soft + steal) / tick, own / tick
