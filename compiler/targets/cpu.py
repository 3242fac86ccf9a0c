"""CPUs: the host, one by LLVM's name (`cpu:cortex-a76`), or a triple (`cpu:aarch64-linux-gnu`)."""

from __future__ import annotations

import re
from functools import cache

from edgec.compiler.iree import IreeError, iree_compile
from edgec.compiler.targets.target import Target
from edgec.compiler.ukernels import best_level
from edgec.errors import InputError
from edgec.passes import INPUT_PIPELINE, TORCH_PIPELINE

__all__ = ["target"]

# Comparisons vectorise as reductions; gathered weights would cost a copy; one row wants its tiles.
_PIPELINE = TORCH_PIPELINE
for _name in ("lower-topk", "lower-grouped-matmul", "lower-linear"):
    _PIPELINE = _PIPELINE.with_options(_name, form="cpu")

_KERNELS = (
    "lower-linear", "lower-grouped-matmul", "lower-quantized-linear",
    "lower-quantized-grouped-matmul", "lower-attention", "fuse-attention",
)  # fmt: skip
"""Passes that dispatch kernels where the CPU has a level of them."""

# Rows of 32·n become n and 32: tiles and vectors divide the 32, with nothing left over. A named
# contraction keeps the two axes; of a linalg.generic, which it must not become, IREE makes one.
_BLOCK_ROWS = 32
_NAMED = "--iree-opt-generalize-matmul=false"

_AARCH64_CPUS = ("cortex-", "neoverse-", "apple-", "ampere1", "carmel", "thunderx", "a64fx")

# What generated code may use of a CPU. LLVM lists far more, most of which (clzero, sha, wbnoinvd)
# no code generator emits by itself. AMX is emitted for tile intrinsics only, and a virtual machine
# may show it in CPUID though its kernel does not support it.
_RELEVANT = frozenset(
    {
        "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi", "bmi2",
        "lzcnt", "movbe", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vnni",
        "avx512bf16", "avx512fp16", "avx512vbmi", "avx512vbmi2", "avx512ifma", "avx512bitalg",
        "avx512vpopcntdq", "avxvnni",
        "neon", "fp-armv8", "dotprod", "fullfp16", "i8mm", "bf16", "sve", "sve2", "lse",
    }
)  # fmt: skip


def target(variant: str) -> Target:
    """Describes a CPU.

    Raises:
        InputError: LLVM does not know the CPU.
    """
    variant = variant or "host"
    flags = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"]
    flags.append(_NAMED)
    if variant == "host":
        flags.append("--iree-llvmcpu-target-cpu=host")
    elif re.fullmatch(r"(aarch64|arm64|x86_64|riscv64)(-[\w.]+)+", variant):
        flags += [f"--iree-llvmcpu-target-triple={variant}", "--iree-llvmcpu-target-cpu=generic"]
    else:
        if variant.startswith(_AARCH64_CPUS):
            flags.append("--iree-llvmcpu-target-triple=aarch64-linux-gnu")
        flags.append(f"--iree-llvmcpu-target-cpu={variant}")
    architecture, cpu, features = _resolve(tuple(flags), variant)
    if variant == "host":
        # By name from here on: the digest of a build must not depend on where it ran.
        flags[-1] = f"--iree-llvmcpu-target-cpu={cpu}"
        if set(_resolve(tuple(flags), cpu)[2]) != set(features):
            # A virtual machine may hide some features of its CPU: then they are listed.
            flags[-1] = "--iree-llvmcpu-target-cpu=host"
    requirements = {"architecture": architecture, "cpu": cpu, "cpu_features": ",".join(features)}
    level = best_level(architecture, frozenset(features))
    pipeline, argmax = _PIPELINE, INPUT_PIPELINE.then("lower-argmax", form="whole")
    if level is not None:
        for name in _KERNELS:
            pipeline = pipeline.with_options(name, kernel=level)
        argmax = INPUT_PIPELINE.then("lower-argmax", kernel=level)
    return Target(
        "cpu", cpu, "local-task", tuple(flags), requirements, pipeline, input_pipeline=argmax,
        block_rows=_BLOCK_ROWS, kernels=level or "", on_host=True,
    )  # fmt: skip


@cache
def _resolve(flags: tuple[str, ...], variant: str) -> tuple[str, str, tuple[str, ...]]:
    """Architecture, CPU name and relevant features, as iree-compile sees them."""
    try:
        text = iree_compile(
            "util.func public @f() { util.return }", flags, to="global-optimization"
        )
    except IreeError as error:
        raise InputError(
            f"target 'cpu:{variant}': {error.summary}",
            "give a CPU by LLVM's name, such as cortex-a76, or a triple",
        ) from None
    triple = re.search(r'target_triple = "([^-"]+)', text)
    cpu = re.search(r'\bcpu = "([^"]*)"', text)
    features = re.search(r'cpu_features = "([^"]*)"', text)
    if triple is None or cpu is None:
        raise InputError(f"target 'cpu:{variant}': the compiler does not describe it")
    listed = features[1].split(",") if features else []
    relevant = sorted({f[1:] for f in listed if f.startswith("+")} & _RELEVANT)
    return triple[1], cpu[1] or "generic", tuple(relevant)
