"""IREE's drivers: what is known of each, in one table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgec.manifest import Program
from edgec.runtime.cpu import check_cpu
from edgec.runtime.cuda import check_cuda
from edgec.runtime.vulkan import check_vulkan

__all__ = ["DRIVERS", "Driver", "driver_of", "on_host"]


@dataclass(frozen=True)
class Driver:
    """A family of IREE's drivers.

    Attributes:
        device: The kind of device, as `--device` names it.
        opened: The driver's full name, by which the device is opened.
        check: Refuses a program that the device here cannot run. It is given the bytes that
            weights, state and a call take.
        requirements: A program must state these, in the form of these patterns.
        remedy: How to get such a device to work, where the driver finds none.
        on_host: Whether programs run on the host's processor, on a number of threads.
    """

    device: str
    opened: str
    check: Callable[[Program, int], None]
    requirements: Mapping[str, str]
    remedy: str
    on_host: bool = False


_NUMBER = r"\d{1,9}"

DRIVERS = {
    "local": Driver(
        "cpu",
        "local-task",
        lambda program, needed: check_cpu(program.requirements),
        {"architecture": r".+", "cpu": r".+", "cpu_features": r".*"},
        "pip install --force-reinstall edgec",
        on_host=True,
    ),
    "vulkan": Driver(
        "vulkan",
        "vulkan",
        check_vulkan,
        {
            "subgroup_size": _NUMBER,
            "shared_memory": _NUMBER,
            "workgroup_threads": _NUMBER,
            "capabilities": r".*",
        },
        "apt-get install libvulkan1 mesa-vulkan-drivers (Debian, Ubuntu), or your GPU's Vulkan"
        " driver",
    ),
    "cuda": Driver(
        "cuda",
        "cuda",
        check_cuda,
        {"compute_capability": rf"{_NUMBER}\.{_NUMBER}"},
        "install NVIDIA's driver (libcuda.so), if the machine has such a GPU",
    ),
}
"""By the first word of the driver's name."""


def driver_of(name: str) -> Driver | None:
    """The entry for a program's driver, such as `local-task`; None for one not known here."""
    return DRIVERS.get(re.split(r"\W", name, maxsplit=1)[0])


def on_host(name: str) -> bool:
    """Whether a driver's programs run on the host's processor."""
    driver = driver_of(name)
    return driver is not None and driver.on_host
