"""Every pass on the `.mlir` files of this folder, as their RUN and CHECK lines say.

`PASS.mlir` shows what a pass does and `PASS_invalid.mlir` what it refuses. Parts of a file that
`// -----` separates are run one by one, each with the checks that it holds. By hand, from here:

    edgec-opt lower_linear.mlir -p lower-linear | filecheck lower_linear.mlir
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options
from filecheck.parser import Parser

from edgec.passes import PASSES, opt

FOLDER = Path(__file__).parent
RUN = re.compile(r"// RUN: (?P<fails>not )?edgec-opt %s -p (?P<passes>\S+) (2>&1 )?\| filecheck %s")


def parts() -> list[Any]:
    found = []
    for file in sorted(FOLDER.glob("*.mlir")):
        text = file.read_text("utf-8")
        run = RUN.match(text)
        assert run is not None, f"{file.name}: no RUN line"
        for number, part in enumerate(text.split("// -----\n")):
            identity = f"{file.stem}-{number}" if number else file.stem
            found.append(pytest.param(part, run["passes"], bool(run["fails"]), id=identity))
    return found


def check(checks: Path, output: str) -> None:
    """Raises AssertionError unless `output` is as the CHECK lines of a file say."""
    options = Options(match_filename=str(checks))
    matcher = Matcher(options, FInput("output", output), Parser.from_opts(options))
    assert matcher.run() == 0, output


@pytest.mark.parametrize(("part", "passes", "fails"), parts())
def test_part(
    part: str, passes: str, fails: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "part.mlir"
    file.write_text(part, "utf-8")
    code = opt.main([str(file), "-p", passes])
    done = capsys.readouterr()
    if fails:
        assert (code, done.out, done.err.count("\n")) == (2, "", 1), done.err
    else:
        assert (code, done.err) == (0, "")
    check(file, done.err if fails else done.out)


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_has_a_file(name: str) -> None:
    assert (FOLDER / f"{name.replace('-', '_')}.mlir").is_file()


def test_a_wrong_output_is_noticed(tmp_path: Path) -> None:
    file = FOLDER / "state_in_place.mlir"
    with pytest.raises(AssertionError):
        check(file, file.read_text("utf-8").replace("// CHECK", "// "))


@pytest.mark.parametrize("name", PASSES)
def test_nothing_to_do(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A module without what a pass looks for comes out as it went in."""
    file = tmp_path / "empty.mlir"
    file.write_text("module {\n}\n")
    assert opt.main([str(file), "-p", name]) == 0
    assert capsys.readouterr().out.strip() == "module {\n}"


@pytest.mark.parametrize(
    ("text", "passes", "says"),
    [
        ("func.func @f() { foo }", "verify-lowered", "custom op 'foo' is unknown"),
        ("module {}", "nope", "pass nope: unknown pass 'nope'; there are: symbolic-bounds"),
        ("module {}", "lower-linear{block=0}", "block=0: must be from 1 on"),
        ("module {}", "lower-linear{block=32 compute=weights}", "block=32: must be"),
        ("module {}", "state-in-place{x=1}", "unexpected keyword argument 'x'"),
        ("module {}", "state-in-place{x}", "option 'x' of state-in-place has no value"),
        ("module {}", "verify-lowered state-in-place", "cannot read 'verify-lowered state"),
        ("module {}", ",", "cannot read ','"),
        (b"\xff\xfe", "verify-lowered", "can't decode byte"),
        (None, "verify-lowered", "No such file"),
    ],
)
def test_errors_are_one_line(
    text: str | bytes | None,
    passes: str,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "in.mlir"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert opt.main([str(file), "-p", passes, "-o", str(tmp_path / "out.mlir")]) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.startswith("edgec-opt: error: ")
    assert done.err.count("\n") == 1
    assert says in done.err
    assert not (tmp_path / "out.mlir").exists()


def test_as_a_program(tmp_path: Path) -> None:
    """From standard input to a file, two passes in one call; and its exit code."""
    program = [sys.executable, "-m", "edgec.passes.opt", "-", "-o", str(tmp_path / "out.mlir")]
    text = (FOLDER / "symbolic_bounds.mlir").read_text("utf-8")
    passes = ["-p", "symbolic-bounds, verify-lowered"]
    done = subprocess.run([*program, *passes], input=text, text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    check(FOLDER / "symbolic_bounds.mlir", (tmp_path / "out.mlir").read_text("utf-8"))
    failed = subprocess.run([*program, "-p", "nope"], input=text, text=True, capture_output=True)
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)


def test_no_pass_reads_what_it_erased(tmp_path: Path) -> None:
    """An erased operation's handle mostly still works; where freed memory is overwritten, never."""
    commands = []
    for number, part in enumerate(parts()):
        text, passes, fails = part.values
        file = tmp_path / f"{number}.mlir"
        file.write_text(text, "utf-8")
        commands.append(([str(file), "-p", passes, "-o", "/dev/null"], 2 if fails else 0))
    program = (
        "import sys; from edgec.passes import opt\n"
        "for arguments, code in eval(sys.stdin.read()): assert opt.main(arguments) == code"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program],
        input=repr(commands),
        env=os.environ | {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.perturb=165"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
