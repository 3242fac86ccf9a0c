"""Progress lines, on a terminal and off it, and numbers as people read them."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from edgec.cli.progress import StageProgress
from edgec.cli.text import count, duration, size


def shown(terminal: bool, fail: bool = False) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=100, color_system=None)
    progress = StageProgress(console=console)
    with progress.stage("weights", "12 MB [f16]"):
        progress.update(5_000_000, 12_000_000, "B")
        with progress.stage("inner"):
            progress.update(1, 2, "tensors")
            if fail:
                raise ZeroDivisionError
    return output.getvalue()


def test_plain_lines() -> None:
    lines = shown(terminal=False).splitlines()
    assert [re.sub(r"[\d.]+ s$", "T", line) for line in lines] == [
        "stage inner ... T",
        "stage weights 12 MB [f16] ... T",
    ]


def test_terminal() -> None:
    text = shown(terminal=True)
    assert "✓ weights 12 MB [f16]" in text
    assert "✓ inner" in text


def test_a_failed_stage_leaves_the_terminal_clean() -> None:
    with pytest.raises(ZeroDivisionError):
        shown(terminal=True, fail=True)


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with StageProgress(quiet=True).stage("x"):
        pass
    assert capsys.readouterr().err == ""


def test_numbers() -> None:
    assert [size(n) for n in (0, 999, 1_234, 12_345_678, 999_600, 3 * 10**12)] == [
        "0 B", "999 B", "1.2 kB", "12.3 MB", "1.0 MB", "3.0 TB",
    ]  # fmt: skip
    assert [count(n) for n in (512, 596_049_920, 8_190_735_360)] == ["512", "596 M", "8.2 B"]
    assert [duration(s) for s in (0.5, 59.94, 125)] == ["0.50 s", "59.9 s", "2 min 5 s"]
