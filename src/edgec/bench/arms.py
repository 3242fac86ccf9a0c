"""The arms of the padding ablation: ways to treat a dynamic prompt length, by target."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from edgec.errors import InputError

__all__ = ["ARMS", "Arm", "arms_for"]


@dataclass(frozen=True)
class Arm:
    """A way to compile and call one model; all else is equal in all arms of a target.

    Attributes:
        name: What tables and plots call it.
        family: `none`, `op`, `input` or `static`: the idea behind it.
        export: Which export it starts from: `none` (the prompt's length is any number), `input`
            (a multiple of 32), or `static` (that, for the padded lengths of the sweep only).
        flags: For iree-compile, after those of every arm.
        program_of: The arm whose program it runs, instead of one of its own.
        padded: Whether prompts are padded to the multiple before the call.
        blocked: Whether code generation splits dimensions by the multiple; None for what is usual.
        kernels: Whether linear layers use a CPU's kernels, which are the same for every length.
        about: What it does, for a reader.
        weak: Why it is a weak baseline on this target; empty where it is not.
    """

    name: str
    family: str
    export: str
    flags: tuple[str, ...] = ()
    program_of: str = ""
    padded: bool = True
    blocked: bool | None = None
    kernels: bool = False
    about: str = ""
    weak: str = ""


def _op(name: str, flag: str, about: str, weak: str = "") -> Arm:
    return Arm(f"op: {name}", "op", "none", (flag,), padded=False, about=about, weak=weak)


_PAD = "--iree-preprocessing-pass-pipeline=builtin.module(iree-preprocessing-pad-to-intrinsics)"
_NONE = Arm("none", "none", "none", padded=False, about="plain dynamic length, nothing padded")
_INPUT = Arm("input", "input", "input", about="padded once at the input to 32·n, as edgec ships it")
_CPU_INPUT = dataclasses.replace(_INPUT, about="padded once at the input to 32·n")
_KERNELS = Arm(
    "input, kernels", "input", "input", kernels=True,
    about="as 'input', with linear layers computed by kernels in C, as edgec ships it",
)  # fmt: skip
_BLOCKED = Arm(
    "input, blocked", "input", "input", blocked=True,
    about="as 'input', and every dispatch has its dynamic dimensions split by the guarantee",
)  # fmt: skip
_UNBLOCKED = Arm(
    "input, not blocked", "input", "input", blocked=False,
    about="as 'input', without the splitting of dimensions that makes use of the guarantee",
)  # fmt: skip
_STATIC = Arm("static", "static", "static", about="a program for each padded length: the ceiling")
_UNTOLD = Arm(
    "input, untold", "input", "none", program_of="none",
    about="prompts padded at the input, run by the program of 'none': padding's cost without the"
    " guarantee's use in code generation",
)  # fmt: skip

ARMS: dict[str, tuple[Arm, ...]] = {
    "cpu": (
        _NONE,
        _op(
            "pad", _PAD, "contractions padded to the sizes of matrix instructions",
            weak="IREE's CPU code generation has no such sizes, so the pass does nothing",
        ),
        _op(
            "peel", "--iree-llvmcpu-vector-pproc-strategy=peel",
            "the remainder of each vector loop peeled off",
        ),
        _op(
            "mask", "--iree-llvmcpu-vector-pproc-strategy=mask",
            "the remainder of each vector loop masked",
        ),
        _op(
            "data tiling", "--iree-opt-data-tiling=true",
            "operands packed and padded into tiles around each contraction (mmt4d)",
        ),
        _CPU_INPUT,
        _KERNELS,
        _BLOCKED,
        _UNBLOCKED,
        _UNTOLD,
        _STATIC,
    ),
    "cuda": (
        _NONE,
        _op(
            "pad", _PAD,
            "contractions padded to the sizes of tensor-core instructions, each for itself",
        ),
        _INPUT,
        _UNBLOCKED,
        _UNTOLD,
        _STATIC,
    ),
    "vulkan": (
        _NONE,
        _op(
            "pad", _PAD, "contractions padded to the sizes of cooperative matrices",
            weak="SPIR-V code generation tiles static shapes only, and these stay dynamic",
        ),
        _INPUT,
        _UNTOLD,
        _STATIC,
    ),
}  # fmt: skip
"""By kind of target. IREE's code generation for Vulkan takes no divisibility: there 'input' is
programs for a few fixed sizes that padded prompts are put together from."""


def arms_for(kind: str, names: str | None = None) -> tuple[Arm, ...]:
    """The arms of a target, or those of them that a comma list names (`none` is always there).

    Raises:
        InputError: an unknown name.
    """
    arms = ARMS[kind]
    if names is None:
        return arms
    wanted = {"none", *(name.strip() for name in names.split(";"))}
    if unknown := wanted - {arm.name for arm in arms}:
        raise InputError(
            f"arms: {kind} has no {sorted(unknown)[0]!r}",
            f"it has {'; '.join(arm.name for arm in arms)}",
        )
    return tuple(arm for arm in arms if arm.name in wanted)
