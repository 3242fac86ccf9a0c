"""`edgec doctor`: what this machine can run, what is missing, and the remedy."""

from __future__ import annotations

import dataclasses
import platform
import sys
from dataclasses import dataclass
from typing import Any

import typer

import edgec
from edgec import vulkan
from edgec.cli.extra import require_compile
from edgec.cli.options import Json, Verbose
from edgec.cli.probe import probe
from edgec.cli.system import PACKAGES, cpu, memory_bytes, package_version, vulkan_drivers
from edgec.cli.text import print_json, size, stdout
from edgec.errors import EdgecError
from edgec.runtime.drivers import DRIVERS

__all__ = ["Check", "checks", "doctor", "print_devices"]


@dataclass(frozen=True)
class Check:
    """One finding. `remedy` is empty when all is well or nothing is known to help."""

    group: str
    name: str
    ok: bool
    found: str
    remedy: str = ""


def doctor(json: Json = False, verbose: Verbose = False) -> None:
    """Show what can run on this machine, what is missing, and what to do about it."""
    found = checks()
    runs = {check.name: check.ok for check in found if check.group == "runs"}
    if json:
        print_json({"checks": [dataclasses.asdict(check) for check in found], "runs": runs})
    else:
        _print_table(found)
    if not runs["cpu"]:
        raise typer.Exit(1)


def checks() -> list[Check]:
    """Looks at everything; drivers are asked in processes of their own."""
    host, (total, available) = cpu(), memory_bytes()
    loader, icds = vulkan_drivers()
    vulkan_files = f"{loader or 'no loader'}, {len(icds)} driver file{'s' * (len(icds) != 1)}"
    found = [
        Check("system", "edgec", True, edgec.__version__),
        Check(
            "system", "python", sys.version_info >= (3, 11), platform.python_version(),
            "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer",
        ),
        Check("system", "cpu", True, f"{host.name}, {host.cores} cores, {host.architecture}"),
        Check("system", "cpu features", True, " ".join(host.features) or "none that matter"),
        Check("system", "memory", True, f"{size(total)}, {size(available)} available"),
        *(_package(name, extra) for name, extra in PACKAGES.items()),
        Check(
            "drivers", "vulkan files", bool(loader and icds), vulkan_files,
            "" if loader and icds else DRIVERS["vulkan"].remedy,
        ),
    ]  # fmt: skip
    for driver in DRIVERS.values():
        answer = probe(driver.opened)
        names = ", ".join(d["name"] for d in answer["devices"])
        missing = "" if names else answer["error"] or "no devices"
        remedy = driver.remedy if missing else ""
        found.append(Check("runs", driver.device, bool(names), names or missing, remedy))
    return [*found, *_vulkan_target(), _can_compile()]


def _vulkan_target() -> list[Check]:
    """The target for the first Vulkan device, and what code generation sees of it."""
    try:
        (device, *_) = vulkan.probe()
    except (vulkan.VulkanError, ValueError):
        return []
    seen = (
        f"subgroups of {device.subgroup_sizes[0]}, {device.shared_memory >> 10} KB shared, "
        f"{size(device.memory)}, {len(device.cooperative_matrices)} cooperative matrix forms"
    )
    try:
        # The names are the compiler's; a device that only runs programs lacks it.
        from edgec.compiler.targets.vulkan_device import architecture_of
    except ImportError:
        return [Check("targets", "vulkan", True, seen)]
    name = architecture_of(device)
    target = f"--target vulkan:{name}" if name else "--target vulkan, described by its driver"
    return [Check("targets", "vulkan", True, f"{target} ({seen})")]


def print_devices() -> None:
    """Prints a line for each device that `--device` can name."""
    for driver in DRIVERS.values():
        answer = probe(driver.opened)
        for index, one in enumerate(answer["devices"]):
            print(f"{driver.device}{f':{index}' if index else ''}\t{one['name']}")


def _package(name: str, extra: str) -> Check:
    version = package_version(name)
    remedy = "" if version else f"pip install '{extra}'"
    return Check("packages", name, version is not None, version or "not installed", remedy)


def _can_compile() -> Check:
    try:
        require_compile("compiling")
    except EdgecError as error:
        return Check("runs", "edgec compile", False, error.remedy, "pip install 'edgec[compile]'")
    return Check("runs", "edgec compile", True, "yes")


def _print_table(found: list[Check]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    group: Any = None
    for check in found:
        mark = "[green]✓[/]" if check.ok else "[yellow]–[/]"
        remedy = f"\n[dim]{check.remedy}[/]" if check.remedy else ""
        # Text in brackets would be read as style.
        text = check.found.replace("[", r"\[") + remedy.replace("edgec[", r"edgec\[")
        table.add_row(check.group if check.group != group else "", mark, check.name, text)
        group = check.group
    stdout().print(table)
