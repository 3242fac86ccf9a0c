"""The arms of the padding ablation: ways to treat a dynamic prompt length, by target."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from edgec.compiler.experiment import Experiment
from edgec.errors import InputError

__all__ = ["Arm", "arms_for"]


_GENERATED = Experiment(kernels=False)


@dataclass(frozen=True)
class Arm:
    """A way to compile and call one model; all else is equal in all arms of a target.

    Attributes:
        name: What tables and plots call it.
        family: `none`, `op`, `input` or `static`: the idea behind it.
        export: Which export it starts from: `none` (the prompt's length is any number) or `input`
            (a multiple of 32).
        static: Whether it has a program for each padded length of the sweep.
        flags: For iree-compile, after those of every arm.
        program_of: The arm whose program it runs, instead of one of its own.
        padded: Whether prompts are padded to the multiple before the call.
        experiment: What it changes in the target. A CPU's kernels are the same for every length,
            so that most arms have generated code.
        about: What it does, for a reader.
        weak: Why it is a weak baseline on this target; empty where it is not.
    """

    name: str
    family: str
    export: str
    static: bool = False
    flags: tuple[str, ...] = ()
    program_of: str = ""
    padded: bool = True
    experiment: Experiment = _GENERATED
    about: str = ""
    weak: str = ""


def _op(name: str, flag: str, about: str, weak: str = "") -> Arm:
    return Arm(f"op: {name}", "op", "none", flags=(flag,), padded=False, about=about, weak=weak)


_PAD = "--iree-preprocessing-pass-pipeline=builtin.module(iree-preprocessing-pad-to-intrinsics)"
_NONE = Arm("none", "none", "none", padded=False, about="plain dynamic length, nothing padded")
_INPUT = Arm("input", "input", "input", about="padded once at the input to 32·n, as edgec ships it")
_KERNELS = Arm(
    "input, kernels", "input", "input", experiment=Experiment(),
    about="as 'input', with linear layers computed by kernels in C, as edgec ships it",
)  # fmt: skip
_STATIC = Arm(
    "static", "static", "input", static=True, about="a program for each padded length: the ceiling"
)
_UNTOLD = Arm(
    "input, untold", "input", "none", program_of="none",
    about="prompts padded at the input, run by the program of 'none': padding's cost without the"
    " guarantee's use in code generation",
)  # fmt: skip

# The same for every dispatch. Not the usual thing: IREE 3.13 then fails on a softmax in one
# dispatch with its row's reduction.
_BLOCK = "func.func(iree-codegen-block-dynamic-dimensions,canonicalize,cse)"
_BLOCK = f"builtin.module(hal.executable.variant(builtin.module({_BLOCK})))"
_NOT_BLOCKED = Arm(
    "input, not blocked", "input", "input", experiment=Experiment(kernels=False, blocks=False),
    about="as 'input', without the splitting of dimensions that makes use of the guarantee",
)  # fmt: skip

_OPS: dict[str, tuple[Arm, ...]] = {
    "cpu": (
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
    ),
    "cuda": (
        _op(
            "pad", _PAD,
            "contractions padded to the sizes of tensor-core instructions, each for itself",
        ),
    ),
    "vulkan": (
        _op(
            "pad", _PAD, "contractions padded to the sizes of cooperative matrices",
            weak="SPIR-V code generation tiles static shapes only, and these stay dynamic",
        ),
    ),
}  # fmt: skip
"""By kind of target: ways in which code generation pads for itself."""

_INPUTS: dict[str, tuple[Arm, ...]] = {
    "cpu": (
        dataclasses.replace(_INPUT, about="padded once at the input to 32·n"),
        _KERNELS,
        Arm(
            "input, blocked", "input", "input",
            flags=(f"--iree-hal-preprocess-executables-with={_BLOCK}",),
            about="as 'input', and every dispatch has its dynamic dimensions split by the"
            " guarantee",
        ),
        _NOT_BLOCKED,
    ),
    "cuda": (
        _INPUT,
        dataclasses.replace(
            _NOT_BLOCKED, flags=("--iree-codegen-block-dynamic-dimensions-of-contractions=false",)
        ),
    ),
}  # fmt: skip
"""By kind of target: what it makes of the guarantee, where that is more than `input`.

IREE's code generation for Vulkan takes no divisibility: there 'input' is programs for a few fixed
sizes that padded prompts are put together from."""


def arms_for(kind: str, names: str | None = None) -> tuple[Arm, ...]:
    """The arms of a target, or those of them that `names` lists (`none` is always there).

    One for which the tables above have nothing has the arms of every target.

    Args:
        kind: A key of `TARGETS`.
        names: With semicolons between them.

    Raises:
        InputError: an unknown name.
    """
    arms = (_NONE, *_OPS.get(kind, ()), *_INPUTS.get(kind, (_INPUT,)), _UNTOLD, _STATIC)
    if names is None:
        return arms
    wanted = {"none", *(name.strip() for name in names.split(";"))}
    if unknown := wanted - {arm.name for arm in arms}:
        raise InputError(
            f"arms: {kind} has no {sorted(unknown)[0]!r}",
            f"it has {'; '.join(arm.name for arm in arms)}",
        )
    return tuple(arm for arm in arms if arm.name in wanted)
