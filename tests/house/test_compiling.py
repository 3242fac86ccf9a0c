"""`make quick` leaves out the tests that compile, and only those."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.compiling import compiles

import edgec
from edgec.compiler.iree import iree_compile_file

GUARDED = """
import subprocess
from tests.compiling import refuse_compilers
refuse_compilers()
subprocess.run(["echo", "iree-compile"], check=True)
try:
    subprocess.run(["supervisor", "/somewhere/iree-compile", "-", "-o", "out"])
except RuntimeError as error:
    assert "mark it" in str(error)
else:
    raise AssertionError
"""


def run_it() -> None:
    iree_compile_file(Path("in.mlir"), Path("out.vmfb"), ())


def by_helper() -> None:
    [run_it() for _ in range(2)]


def by_command(run_edgec: Callable[..., Any]) -> None:
    command = ["compile", "bundled:tiny-dense", "-c", "64"]
    run_edgec(*command)


def by_call() -> None:
    edgec.compile("bundled:tiny-dense")


def nothing() -> None:
    re.compile("a")


def made_by(function: Callable[..., Any]) -> list[Any]:
    """The definitions of a fixture."""
    return [SimpleNamespace(func=function)]


@pytest.mark.parametrize("function", [by_helper, by_command, by_call])
def test_it_is_found(function: Callable[..., Any]) -> None:
    assert compiles(function, {})
    assert compiles(nothing, {"made": made_by(function)})
    assert not compiles(nothing, {"made": made_by(nothing)})


def test_fixtures() -> None:
    assert compiles(nothing, {"compile_once": made_by(nothing)})
    assert not compiles(by_call, {"fake_stages": made_by(nothing)})


def test_a_compiler_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARDED],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
