"""Runs a command, and ends it with all that it started when the process that wants it is gone.

    python supervisor.py PIPE COMMAND...

PIPE is the reading end of a pipe. Its other end is open in the process that wants the command, and
nowhere else: the system closes it however that process ends. This file is a program, and loads
nothing but the standard library, which takes milliseconds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

__all__: list[str] = []


def _end_with(pipe: int) -> None:
    os.read(pipe, 1)
    os.killpg(0, signal.SIGKILL)  # this process too


def _main() -> int:
    pipe, *command = sys.argv[1:]
    os.set_inheritable(int(pipe), False)
    threading.Thread(target=_end_with, args=(int(pipe),), daemon=True).start()
    child = os.posix_spawn(command[0], command, os.environ)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(_main())
