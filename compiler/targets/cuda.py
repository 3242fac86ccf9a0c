"""NVIDIA GPUs through CUDA: `cuda:sm_80`, `cuda:sm_86` (the default), `cuda:sm_89`.

The program holds PTX, which the driver translates for its GPU: it runs on that architecture and
on every newer one.
"""

from __future__ import annotations

from edgec.compiler.targets.target import Target
from edgec.errors import InputError
from edgec.passes import INPUT_PIPELINE, TORCH_PIPELINE

__all__ = ["ARCHITECTURES", "target"]

ARCHITECTURES = ("sm_80", "sm_86", "sm_89")
"""The architectures with tensor cores for f16 and bf16, by IREE's table."""


def target(variant: str) -> Target:
    """Describes an NVIDIA GPU.

    Raises:
        InputError: not one of `ARCHITECTURES`.
    """
    variant = variant or "sm_86"
    if variant not in ARCHITECTURES:
        raise InputError(
            f"target 'cuda:{variant}': must be one of {', '.join(ARCHITECTURES)}",
            "a newer GPU runs programs for an older one",
        )
    flags = ("--iree-hal-target-device=cuda", f"--iree-cuda-target={variant}")
    # Tensor cores multiply 16-bit numbers, see the two passes.
    pipeline = TORCH_PIPELINE.with_options("lower-linear", compute="weights")
    pipeline = pipeline.with_options("lower-attention", compute="cache")
    pipeline = pipeline.with_options("lower-quantized-linear", form="apart")
    return Target(
        "cuda",
        variant,
        "cuda",
        flags,
        {"compute_capability": f"{variant[3]}.{variant[4]}"},
        torch_pipeline=pipeline,
        input_pipeline=INPUT_PIPELINE.then("lower-argmax"),
    )
