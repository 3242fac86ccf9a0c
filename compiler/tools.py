"""Running a compiler: it ends when this process does, and leaves no temporary file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

from edgec.compiler import supervisor

__all__ = ["run_tool"]


def run_tool(
    command: list[str],
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    text: bytes | None = None,
    temporary: Path | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command in a process group of its own and waits for it.

    The group is killed if this process ends or an exception such as Ctrl-C ends the waiting.

    Args:
        command: An absolute path, and arguments.
        stdin: A file, or PIPE for `text`.
        text: What the command reads.
        temporary: Where it makes temporary files, so that they go with that folder.
        environment: More variables.
    """
    variables = {**os.environ, **(environment or {})}
    if temporary is not None:
        variables["TMPDIR"] = str(temporary.absolute())
    theirs, ours = os.pipe()
    try:
        with subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__, str(theirs), *command],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(theirs,),
            start_new_session=True,
            env=variables,
        ) as process:
            try:
                out, err = process.communicate(text)
            finally:
                os.close(ours)
                ours = -1
    finally:
        os.close(theirs)
        if ours >= 0:
            os.close(ours)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
