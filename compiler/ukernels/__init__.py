"""CPU kernels in C, compiled ahead of time for a feature level and linked into programs.

A level is a row of `LEVELS`: which CPUs have it, and how its source is compiled. The compiler is
zig's clang, a Python package; nothing of it is needed on the device.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from edgec.compiler.tools import run_tool
from edgec.compiler.ukernels.abi import abi_header
from edgec.compiler.ukernels.kept import keep, read_kept
from edgec.errors import CompileError
from edgec.passes.kernels.table import objects

__all__ = ["LEVELS", "Level", "best_level", "build_object", "build_objects"]

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Level:
    """A feature level of a CPU architecture.

    Attributes:
        architecture: The triple's first part.
        features: What a CPU needs, in LLVM's names.
        cpu: What zig is told to compile for; no more than `features` gives.
        flags: For its sources.
    """

    architecture: str
    features: frozenset[str]
    cpu: str
    flags: tuple[str, ...] = ()


_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vnni"}

LEVELS = {
    # x86_64_v4 is told to prefer half its width, for the sake of CPUs that slow down otherwise.
    "x86_64_avx512vnni": Level(
        "x86_64", _AVX512, "x86_64_v4+avx512vnni", ("-mprefer-vector-width=512",)
    ),
    "x86_64_avx2": Level("x86_64", _AVX2, "x86_64_v3"),
    "aarch64_i8mm": Level(
        "aarch64", frozenset({"neon", "dotprod", "i8mm"}), "generic+dotprod+i8mm"
    ),
    "aarch64_dotprod": Level("aarch64", frozenset({"neon", "dotprod"}), "generic+dotprod"),
}
"""Name to level, best first."""

# No libc, no globals that need a loader, no checks that call into a runtime: the object becomes
# part of an ELF file that IREE loads by itself.
_FLAGS = (
    "-O3", "-g0", "-ffreestanding", "-fno-builtin", "-nostdlib", "-fPIC", "-fno-stack-protector",
    "-fno-stack-check", "-fno-sanitize=undefined", "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables", "-fomit-frame-pointer", "-mno-red-zone", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip


def best_level(architecture: str, features: frozenset[str]) -> str | None:
    """The best level that a CPU has, or None when it has none."""
    for name, level in LEVELS.items():
        if level.architecture == architecture and level.features <= features:
            return name
    return None


def build_objects(text: str, level: str, folder: Path) -> None:
    """Compiles the kernels that a module, given as text, names; see `build_object`."""
    for stem in sorted(set(re.findall(rf'"(\w+)_{level}\.o"', text))):
        build_object(stem, level, folder / f"{stem}_{level}.o")


def build_object(stem: str, level: str, output: Path, exported: bool = False) -> None:
    """Compiles the libraries of an object file, from `<source>_<level>.c`.

    Its functions are hidden unless `exported`: within a program they are then called directly.
    IREE's loader does not bind what AArch64 calls through a table (PLT) otherwise.

    Raises:
        CompileError: ziglang is not installed, or the compiler failed.
    """
    key = (stem, level, exported)
    if key not in _built:
        _built[key] = _object(stem, level, exported, output.parent)
    output.write_bytes(_built[key])


_built: dict[tuple[str, str, bool], bytes] = {}
"""Object files: one takes a second or two, and a process may compile many models."""


def _object(stem: str, level: str, exported: bool, place: Path) -> bytes:
    """The object file, of an earlier build or compiled now; temporary files are in `place`."""
    libraries = objects()[stem]
    spec = find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise CompileError(
            "the CPU's kernels need a C compiler: ziglang is not installed",
            "pip install 'edgec[compile]'",
        )
    zig, source, header = (
        Path(spec.origin).parent / "zig",
        libraries[0].source,
        abi_header(libraries),
    )
    flags = (
        "-target", f"{LEVELS[level].architecture}-freestanding-none", f"-mcpu={LEVELS[level].cpu}",
        *_FLAGS, *LEVELS[level].flags, f"-fvisibility={'default' if exported else 'hidden'}",
    )  # fmt: skip
    key = hashlib.sha256(repr((version("ziglang"), flags, source, level, header)).encode())
    for path in sorted([*_FOLDER.glob("*.h"), _FOLDER / f"{source}_{level}.c"]):
        key.update(path.read_bytes())
    if kept := read_kept(key.hexdigest()):
        return kept
    with tempfile.TemporaryDirectory(prefix="zig-", dir=place) as name:
        folder = Path(name).absolute()
        output = folder / "kernel.o"
        (folder / "abi.h").write_text(header, encoding="utf-8")
        done = run_tool(
            [
                str(zig), "cc", *flags, "-I", str(folder), "-c",
                str(_FOLDER / f"{source}_{level}.c"), "-o", str(output),
            ],
            temporary=folder,
            environment={
                "ZIG_GLOBAL_CACHE_DIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder),
            },
        )  # fmt: skip
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            error = next((line for line in lines if " error: " in line), lines[0])
            raise CompileError(f"kernel {stem} for {level}: {error}")
        keep(key.hexdigest(), output.read_bytes())
        return output.read_bytes()
