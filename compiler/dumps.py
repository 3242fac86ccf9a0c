"""Dumped stages: the names of their files, and going on from one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgec.errors import InputError
from edgec.options import STAGE_NAMES

__all__ = ["EXPORTED", "file_of", "starting_point"]

EXPORTED = STAGE_NAMES[0]
"""The stage before a target's own: what export made, the same for every target."""


def file_of(stage: str, kind: str) -> str:
    """The name of a stage's result for a kind of target, in a build's folder and in a dump."""
    if stage == EXPORTED:
        return f"{stage}.mlir"
    return f"{kind}.vmfb" if stage == "vmfb" else f"{kind}.{stage}.mlir"


def starting_point(start: str | Path | None, kinds: Sequence[str]) -> tuple[str, Path] | None:
    """The stage that a dumped file is of, and the file; None where there is none to start from.

    Raises:
        InputError: no such file, not a dumped stage, or of one of several targets.
    """
    if start is None:
        return None
    file = Path(start)
    if not file.is_file():
        raise InputError(f"start-from {file}: no such file", "give a file from --dump-ir")
    if len(kinds) > 1 and file.name != file_of(EXPORTED, kinds[0]):
        raise InputError(f"start-from {file}: belongs to one target", "name one --target")
    stages = {file_of(stage, kinds[0]): stage for stage in STAGE_NAMES[:-1]}
    if file.name not in stages:
        raise InputError(
            f"start-from {file}: not a dumped stage", f"must be named {', '.join(stages)}"
        )
    return stages[file.name], file
