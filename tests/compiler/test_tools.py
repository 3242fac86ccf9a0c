"""A compiler that was started ends with whoever started it, with all that it started itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgec.compiler.tools import run_tool

# Itself, a child, and a child of that child, which outlives its parents where nobody ends it.
TREE = "sh -c 'echo $$ >>{pids}; sleep 300' & echo $$ $! >>{pids}; sleep 300"


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def pids(file: Path) -> list[int]:
    return [int(word) for word in file.read_text().split()] if file.exists() else []


def test_what_it_gives() -> None:
    script = "cat; echo said >&2; exit 3"
    done = run_tool(["/bin/sh", "-c", script], stdin=subprocess.PIPE, text=b"given")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"given", b"said\n")
    assert run_tool(["/bin/sh", "-c", "kill -11 $$"]).returncode == 128 + 11


def test_where_its_temporary_files_are(tmp_path: Path) -> None:
    done = run_tool(
        ["/bin/sh", "-c", "mktemp; echo $A"], temporary=tmp_path, environment={"A": "b"}
    )
    made, a = done.stdout.decode().split()
    assert (Path(made).parent, a) == (tmp_path, "b")


def test_nothing_stays_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        run_tool(["/bin/true"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("how", ["kill", "kill the group", "terminate", "interrupt"])
def test_it_ends_with_its_parent(tmp_path: Path, how: str) -> None:
    file = tmp_path / "pids"
    command = ["/bin/sh", "-c", TREE.format(pids=file)]
    program = f"from edgec.compiler.tools import run_tool; run_tool({command!r})"
    parent = subprocess.Popen(
        [sys.executable, "-c", program], start_new_session=True, stderr=subprocess.DEVNULL
    )
    assert wait_for(lambda: len(pids(file)) == 3)
    started = pids(file)
    assert all(map(alive, started))
    if how == "kill the group":
        os.killpg(parent.pid, signal.SIGKILL)
    else:
        number = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
        parent.send_signal(number[how])
    parent.wait(30)
    assert wait_for(lambda: not any(map(alive, started)), 10)
