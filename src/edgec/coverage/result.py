"""The result for a family, and where it is kept between runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import edgec

__all__ = ["EXACT", "FAILS", "NOT_TEXT", "Result", "Results", "sources"]

EXACT, FAILS, NOT_TEXT = "exact", "fails", "not text"


@dataclass(frozen=True)
class Result:
    """How the comparison of one family went.

    Attributes:
        family: transformers' model type.
        target: Which target ran.
        status: `exact`, `fails` or `not text` (no decoder of text alone).
        stage: The first stage that failed; empty if none did.
        message: What it said, in one line, or why a family is no text decoder.
        error: The largest difference of logits in units of their range; None where nothing ran.
        state: The kinds of state that the artifact has.
        attention: `operator` or `own`: whose code attends (`ModelInfo`); empty where none does,
            or where nothing was compiled.
        seconds: Wall time.
        sources: Digest of edgec's code that was run.
    """

    family: str
    target: str
    status: str
    stage: str = ""
    message: str = ""
    error: float | None = None
    state: tuple[str, ...] = ()
    attention: str = ""
    seconds: float = 0.0
    sources: str = ""


@dataclass(frozen=True)
class Results:
    """Results as files, one for each family and target, so that a run can be taken up again."""

    folder: Path

    def read(self, family: str, target: str) -> Result | None:
        """The result of a family, of whatever code; None if there is none."""
        return self.load(self._file(family, target))

    @staticmethod
    def load(file: Path) -> Result | None:
        """The result in a file; None if it holds none."""
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return Result(**{**values, "state": tuple(values["state"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, result: Result) -> None:
        """Keeps a result; a reader sees it whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self._file(result.family, result.target)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(dataclasses.asdict(result), indent=1), encoding="utf-8")
        part.replace(file)

    def _file(self, family: str, target: str) -> Path:
        return self.folder / f"{target.replace(':', '-')}-{family}.json"


@cache
def sources() -> str:
    """Digest of the code and the versions that a result depends on."""
    from edgec.compiler.digest import digest

    state = hashlib.sha256(digest({}).encode())
    root = Path(edgec.__file__).parent
    for file in (*(root / "coverage").glob("*.py"), *(root / "runtime").glob("*.py")):
        state.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    return state.hexdigest()[:16]
