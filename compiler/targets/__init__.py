"""The targets that a program can be compiled for: one file per kind of target."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.errors import InputError

if TYPE_CHECKING:
    from edgec.compiler.targets.target import Target

__all__ = ["TARGETS", "parse_targets", "requirements", "split_targets"]

TARGETS = {
    "cpu": "edgec.compiler.targets.cpu",
    "vulkan": "edgec.compiler.targets.vulkan",
    "cuda": "edgec.compiler.targets.cuda",
}
"""Kind to the module whose `target(variant)` describes it; it may add `requirements(program)`."""


def split_targets(text: str) -> dict[str, str]:
    """Splits `cpu:cortex-a76,vulkan` into variants by kind; loads nothing.

    Raises:
        InputError: an unknown kind, none at all, or one kind twice.
    """
    variants: dict[str, str] = {}
    for item in text.split(","):
        kind, _, variant = item.strip().partition(":")
        if kind not in TARGETS:
            raise InputError(f"target '{item}': must be one of {', '.join(TARGETS)}")
        if kind in variants:
            raise InputError(f"target '{text}': {kind} is named twice")
        variants[kind] = variant
    return variants


def parse_targets(text: str) -> tuple[Target, ...]:
    """Describes the targets that `split_targets` finds.

    Raises:
        InputError: as there, or an unknown variant.
    """
    return tuple(
        import_module(TARGETS[kind]).target(variant)
        for kind, variant in split_targets(text).items()
    )


def requirements(target: Target, program: Path) -> dict[str, str]:
    """The needs of a compiled program on its device: the target's, and the program's own."""
    module = import_module(TARGETS[target.name])
    own = getattr(module, "requirements", None)
    return {**target.requirements, **(own(program) if own else {})}
