"""Running iree-compile, in a process of its own: a compiler crash is an error, not our end."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import IO

import iree.compiler

from edgec.compiler.tools import run_tool

__all__ = ["IreeError", "iree_compile", "iree_compile_file"]


class IreeError(Exception):
    """iree-compile failed; `log` is everything it said."""

    def __init__(self, log: str) -> None:
        super().__init__(log)
        self.log = log

    @property
    def summary(self) -> str:
        """The first line that says what is wrong."""
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        for line in lines:
            if "error:" in line:
                return line.partition("error:")[2].strip()[:300]
        return lines[0][:300] if lines else "no message"


def iree_compile(text: str, flags: tuple[str, ...], to: str) -> str:
    """Compiles IR given as text up to the phase `to` and returns IR as text."""
    arguments = ["-", f"--compile-to={to}", *flags]
    return _run(arguments, stdin=subprocess.PIPE, text=text.encode()).decode()


def iree_compile_file(source: Path, output: Path, flags: tuple[str, ...]) -> None:
    """Compiles a file to a file; raises IreeError with iree-compile's words.

    It reads the file from its standard input: it would put the name into the program, and equal
    builds would differ. Its temporary files are beside the output.
    """
    with source.open("rb") as stream:
        _run(["-", "-o", str(output), *flags], stdin=stream, temporary=output.parent)


def _run(
    arguments: list[str],
    *,
    stdin: IO[bytes] | int,
    text: bytes | None = None,
    temporary: Path | None = None,
) -> bytes:
    tool = Path(iree.compiler.__path__[0]) / "_mlir_libs" / "iree-compile"
    done = run_tool([str(tool), *arguments], stdin=stdin, text=text, temporary=temporary)
    if done.returncode != 0:
        raise IreeError(done.stderr.decode(errors="replace") or f"exit code {done.returncode}")
    return done.stdout
