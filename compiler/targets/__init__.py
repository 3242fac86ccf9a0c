"""The targets that a program can be compiled for: one file per kind of target."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from edgec.compiler.targets.target import Target
from edgec.errors import InputError

__all__ = ["TARGETS", "Target", "parse_targets", "requirements"]

TARGETS = {
    "cpu": "edgec.compiler.targets.cpu",
    "vulkan": "edgec.compiler.targets.vulkan",
    "cuda": "edgec.compiler.targets.cuda",
}
"""Kind to the module whose `target(variant)` describes it; it may add `requirements(program)`."""


def parse_targets(text: str) -> tuple[Target, ...]:
    """Parses `cpu` or `cpu:cortex-a76,vulkan:rdna3` into descriptions.

    Raises:
        InputError: an unknown kind or variant, none at all, or one kind twice.
    """
    targets: dict[str, Target] = {}
    for item in text.split(","):
        kind, _, variant = item.strip().partition(":")
        if kind not in TARGETS:
            raise InputError(f"target '{item}': must be one of {', '.join(TARGETS)}")
        if kind in targets:
            raise InputError(f"target '{text}': {kind} is named twice")
        targets[kind] = import_module(TARGETS[kind]).target(variant)
    return tuple(targets.values())


def requirements(target: Target, program: Path) -> dict[str, str]:
    """The needs of a compiled program on its device: the target's, and the program's own."""
    module = import_module(TARGETS[target.name])
    own = getattr(module, "requirements", None)
    return {**target.requirements, **(own(program) if own else {})}
