"""Opens the IREE device that a program runs on, once for the process."""

from __future__ import annotations

import threading
from typing import Any

from edgec.errors import DeviceError, InputError

__all__ = ["MAX_THREADS", "open_device"]

MAX_THREADS = 64
"""The largest worker count that IREE's task executor takes."""

# IREE reads its thread topology from process-wide flags when the driver is first made, and
# caches the driver: what the first session chose holds for the process.
_lock = threading.Lock()
_threads: int | None = None
_cpu_opened = False


def open_device(driver: str, threads: int | None = None) -> Any:
    """The device of an IREE HAL driver.

    Args:
        driver: A manifest program's driver, such as `local-task`, `vulkan` or `cuda`.
        threads: CPU worker threads, 1 to 64; None leaves the choice to IREE (one per core).
            It holds for the process: only the first call that opens a CPU device can set it.

    Raises:
        InputError: `threads` is out of range, does not apply to the driver, or differs from
            what this process already runs with.
        DeviceError: the runtime has no such driver, or the driver found no device.
    """
    import iree.runtime as rt

    with _lock:
        if threads is not None:
            _set_threads(driver, threads)
        try:
            device = rt.get_device(driver)
        except Exception as error:
            known = ", ".join(sorted(rt.query_available_drivers()))
            raise DeviceError(
                f"device {driver!r} cannot be opened: {_first_line(error)}",
                f"this runtime has {known}; edgec doctor says what is missing",
            ) from error
        global _cpu_opened
        _cpu_opened = _cpu_opened or driver.startswith("local-task")
        return device


def _set_threads(driver: str, threads: int) -> None:
    """Sets IREE's worker count; the caller holds the lock."""
    from iree.runtime.flags import parse_flags

    if not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads={threads!r}: must be an integer from 1 to {MAX_THREADS}")
    if not driver.startswith("local-task"):
        raise InputError(f"threads={threads}: applies to the CPU only, not to {driver!r}")
    global _threads
    if _cpu_opened:
        if threads != _threads:
            running = "IREE's default" if _threads is None else str(_threads)
            raise InputError(
                f"threads={threads}: this process already runs with {running} threads",
                "set threads on the first session of the process",
            )
        return
    parse_flags(f"--task_topology_max_group_count={threads}")
    _threads = threads


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
