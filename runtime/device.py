"""Opens the IREE device that a program runs on, once for the process."""

from __future__ import annotations

import os
import threading
from typing import Any

from edgec.errors import DeviceError, InputError
from edgec.runtime.drivers import on_host

__all__ = ["MAX_THREADS", "check_process", "forked", "open_device"]

MAX_THREADS = 64
"""The largest worker count that IREE's task executor takes."""

# IREE reads its thread topology from process-wide flags when the driver is first made, and
# caches the driver: what the first session chose holds for the process.
_lock = threading.Lock()
_threads: int | None = None
_cpu_opened = False
_opened = False
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = _opened


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def forked() -> bool:
    """Whether this process is a fork of one that had opened a device.

    IREE's threads are in the parent only: whatever waits for the device here waits for ever, also
    a model that is loaded anew.
    """
    return _forked


def check_process() -> None:
    """Refuses to use a device in a fork.

    Raises:
        DeviceError: see `forked`.
    """
    if _forked:
        raise DeviceError(
            "this process was forked after a model had been loaded, and the device's threads"
            " stayed behind",
            "load the model after the fork, or start the process with spawn or forkserver",
        )


def open_device(driver: str, threads: int | None = None) -> Any:
    """The device of an IREE HAL driver.

    Args:
        driver: A manifest program's driver, such as `local-task`, `vulkan` or `cuda`.
        threads: CPU worker threads, 1 to 64; None leaves the choice to IREE (one per core).
            It holds for the process: only the first call that opens a CPU device can set it.

    Raises:
        InputError: `threads` is out of range, does not apply to the driver, or differs from
            what this process already runs with.
        DeviceError: the runtime has no such driver, the driver found no device, or `forked`.
    """
    import iree.runtime as rt

    check_process()
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
        global _cpu_opened, _opened
        _opened = True
        _cpu_opened = _cpu_opened or on_host(driver)
        return device


def _set_threads(driver: str, threads: int) -> None:
    """Sets IREE's worker count; the caller holds the lock."""
    from iree.runtime.flags import parse_flags

    if not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads={threads!r}: must be an integer from 1 to {MAX_THREADS}")
    if not on_host(driver):
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
