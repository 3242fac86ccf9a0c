"""Every failure is one line on stderr with a remedy, and the right exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgec.artifact import Artifact
from edgec.cli import extra
from edgec.errors import ArtifactError, DeviceError, EdgecError

Edgec = Callable[..., Any]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, hand_made: Artifact) -> Callable[..., list[str]]:
    """`failing(error)`: the arguments of a command that raises it."""

    def arguments(error: BaseException) -> list[str]:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr("edgec.cli.run.open_session", fail)
        return ["run", str(hand_made.path), "-p", "hi"]

    return arguments


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (EdgecError("it broke"), 1, "edgec: error: it broke"),
        (ArtifactError("bad file", "compile again"), 2, "edgec: error: bad file (compile again)"),
        (DeviceError("no GPU", "get one"), 1, "edgec: error: no GPU (get one)"),
        (EdgecError("two\nlines"), 1, "edgec: error: two lines"),
        (KeyboardInterrupt(), 130, "edgec: interrupted"),
        (
            PermissionError(13, "Permission denied", "/x/y"),
            1,
            "edgec: error: /x/y: Permission denied",
        ),
        (
            ValueError("odd\nthing"),
            1,
            "edgec: error: ValueError: odd (this is a bug; run again with --verbose to see where)",
        ),
    ],
)  # fmt: skip
def test_error_is_one_line(
    edgec_in_process: Edgec,
    failing: Callable[..., list[str]],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    done = edgec_in_process(*failing(error))
    assert (done.code, done.stdout, done.stderr) == (code, "", line + "\n")


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_traceback_only_on_request(
    edgec_in_process: Edgec,
    failing: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    arguments = failing(ValueError("odd"))
    if how == "flag":
        arguments.append("-v")
    else:
        monkeypatch.setenv("EDGEC_DEBUG", "1")
    done = edgec_in_process(*arguments)
    assert done.code == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["compile"], "Missing argument"),
        (["compile", "m", "--layers", "0"], "--layers"),
        (["compile", "m", "--quantize", "int9"], "quantize 'int9': must be one of none"),
        (["run"], "no model or artifact given"),
        (["run", "x.edgec"], "no prompt"),
        (["run", "x.edgec", "-p", "  "], "the prompt is empty"),
        (["run", "x.edgec", "-p", "a", "-f", "b"], "both --prompt and --file"),
        (["run", "x.edgec", "-f", "no/such"], "--file no/such: cannot be read"),
        (["run", "x.edgec", "-p", "a", "--threads", "0"], "--threads"),
        (["run", "x.edgec", "-p", "a", "--top-k", "many"], "--top-k"),
        (["run", "x.edgec", "-p", "a", "--chat-template-kwargs", "["], "not JSON"),
        (["run", "x.edgec", "-p", "a", "--chat-template-kwargs", "1"], "must be a JSON object"),
        (
            ["run", "x.edgec", "-p", "a", "--no-chat-template", "--system-prompt", "b"],
            "--system-prompt needs the chat template",
        ),
        (["inspect", "no/such"], "artifact no/such: not found"),
    ],
)
def test_bad_input(edgec_in_process: Edgec, arguments: list[str], says: str) -> None:
    done = edgec_in_process(*arguments)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith("edgec: error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.mark.parametrize("arguments", [["compile", "m"], ["models"], ["run", "org/m", "-p", "a"]])
def test_a_device_without_the_compiler(
    edgec_in_process: Edgec,
    sessions: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.setattr(extra, "installed", lambda module: module != "torch")
    done = edgec_in_process(*arguments)
    assert done.code == 1
    assert "needs pip install 'edgec[compile]' (not installed: torch)" in done.stderr


def test_terminate_unwinds(tmp_path: Path) -> None:
    """SIGTERM runs the clean-up of what was begun, and ends with 128 + 15."""
    program = f"""
import pathlib, sys, time
from edgec import cli
import edgec.cli.run
def hang(*args, **options):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        pathlib.Path({str(tmp_path / "clean")!r}).touch()
edgec.cli.run.open_session = hang
sys.exit(cli.execute(["run", "x.edgec", "-p", "a"]))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert (tmp_path / "clean").exists()
    process.stdout.close()
