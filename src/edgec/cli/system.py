"""Describes the machine: CPU, memory, Python packages, Vulkan's loader and drivers."""

from __future__ import annotations

import ctypes.util
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = ["PACKAGES", "Cpu", "cpu", "memory_bytes", "package_version", "vulkan_drivers"]

PACKAGES = {
    "iree-base-runtime": "edgec",
    "numpy": "edgec",
    "tokenizers": "edgec",
    "jinja2": "edgec",
    "fastapi": "edgec[serve]",
    "uvicorn": "edgec[serve]",
    "llguidance": "edgec[serve]",
    "iree-base-compiler": "edgec[compile]",
    "iree-turbine": "edgec[compile]",
    "torch": "edgec[compile]",
    "transformers": "edgec[compile]",
    "safetensors": "edgec[compile]",
    "huggingface_hub": "edgec[compile]",
}
"""Distribution → what installs it with pip."""

_FEATURES = {
    "avx2": "avx2", "fma": "fma", "f16c": "f16c", "avx512f": "avx512", "avx512_vnni": "avx512-vnni",
    "avx512_bf16": "avx512-bf16", "avx_vnni": "avx-vnni", "amx_int8": "amx-int8",
    "asimd": "neon", "asimdhp": "fp16", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16",
    "sve": "sve",
}  # fmt: skip
"""The kernel's name → the usual name of the CPU features that compiled programs gain from."""

_ICD_FOLDERS = ("/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d")


@dataclass(frozen=True)
class Cpu:
    """The host's processor; `features` are those that matter here, in their usual names."""

    name: str
    architecture: str
    cores: int
    features: tuple[str, ...]


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Cpu:
    """Reads the kernel's description of the processor; fields it lacks stay generic."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    for line in lines:
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in ("model name", "Model"):
            name = value
        elif key in ("flags", "Features"):
            flags |= set(value.split())
    features = tuple(usual for kernel, usual in _FEATURES.items() if kernel in flags)
    return Cpu(name, platform.machine(), len(os.sched_getaffinity(0)), features)


def memory_bytes() -> tuple[int, int]:
    """Total and available memory; zeros where the kernel does not say."""
    values = {"MemTotal": 0, "MemAvailable": 0}
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text(encoding="utf-8").splitlines() if meminfo.exists() else []:
        key, _, rest = line.partition(":")
        if key in values:
            values[key] = int(rest.split()[0]) * 1024
    return values["MemTotal"], values["MemAvailable"]


def package_version(distribution: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def vulkan_drivers() -> tuple[str | None, list[str]]:
    """The Vulkan loader's file name, if there is one, and the driver manifests it would read."""
    named = os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES")
    if named:
        drivers = named.split(os.pathsep)
    else:
        drivers = [str(f) for folder in _ICD_FOLDERS for f in sorted(Path(folder).glob("*.json"))]
    return ctypes.util.find_library("vulkan"), drivers
