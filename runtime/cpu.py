"""The features of the CPU at hand, and whether it suffices for a program.

A program compiled for instructions that the CPU lacks would die of SIGILL somewhere inside a
dispatch. It is refused by name before it is loaded.
"""

from __future__ import annotations

import platform
import warnings
from pathlib import Path

from edgec.errors import DeviceError

__all__ = ["check_cpu", "missing_features", "parse_cpuinfo"]

# LLVM's feature name -> the flag in /proc/cpuinfo, where the two differ.
_X86_FLAGS = {
    "avx512bf16": "avx512_bf16",
    "avx512bitalg": "avx512_bitalg",
    "avx512fp16": "avx512_fp16",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avxvnni": "avx_vnni",
    "amx-bf16": "amx_bf16",
    "amx-int8": "amx_int8",
    "amx-tile": "amx_tile",
    "64bit": "lm",
    "bmi": "bmi1",
    "crc32": "sse4_2",
    "evex512": "avx512f",
    "lzcnt": "abm",
    "pclmul": "pclmulqdq",
    "prfchw": "3dnowprefetch",
    "rdrnd": "rdrand",
    "sahf": "lahf_lm",
    "sha": "sha_ni",
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "x87": "fpu",
}
_ARM_FLAGS = {
    "crc": "crc32",
    "dotprod": "asimddp",
    "fp-armv8": "fp",
    "fullfp16": "asimdhp",
    "lse": "atomics",
    "neon": "asimd",
    "rcpc": "lrcpc",
    "rdm": "asimdrdm",
}
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
_CPUINFO = Path("/proc/cpuinfo")


def parse_cpuinfo(text: str) -> frozenset[str]:
    """The flags that every core of a Linux `/proc/cpuinfo` has (x86 `flags`, Arm `Features`)."""
    cores = [
        frozenset(value.split())
        for key, _, value in (line.partition(":") for line in text.splitlines())
        if key.strip() in ("flags", "Features")
    ]
    return frozenset.intersection(*cores) if cores else frozenset()


def missing_features(required: str, architecture: str, flags: frozenset[str]) -> list[str]:
    """The names in `required` (comma list, LLVM's or cpuinfo's names) that `flags` lack."""
    table = _X86_FLAGS if architecture == "x86_64" else _ARM_FLAGS
    names = [name.strip().lstrip("+") for name in required.split(",")]
    return [
        name
        for name in names
        if name and name not in flags and table.get(name, name.replace("-", "_")) not in flags
    ]


def check_cpu(requirements: dict[str, str]) -> None:
    """Refuses a CPU program that this machine cannot execute.

    Args:
        requirements: A manifest program's; `architecture` (x86_64, aarch64) and `cpu_features`
            (comma list) are looked at.

    Raises:
        DeviceError: another architecture, or a CPU feature is missing; the message names it.
    """
    machine = platform.machine().lower()
    machine = _ARCHITECTURES.get(machine, machine)
    wanted = requirements.get("architecture", machine)
    if _ARCHITECTURES.get(wanted, wanted) != machine:
        raise DeviceError(
            f"the artifact's cpu program is for {wanted}, this machine is {machine}",
            "compile for this machine with --target cpu",
        )
    required = requirements.get("cpu_features", "")
    if not required:
        return
    if not _CPUINFO.exists():
        warnings.warn(
            f"cannot check that this CPU has {required}: no {_CPUINFO} on this system",
            stacklevel=2,
        )
        return
    if missing := missing_features(required, machine, parse_cpuinfo(_CPUINFO.read_text())):
        raise DeviceError(
            f"the artifact's cpu program needs {', '.join(missing)}, which this CPU lacks",
            "compile on this machine, or for its CPU by name with --target",
        )
