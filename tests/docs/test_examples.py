"""The programs of `examples/` run, and say what to run before them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgec.artifact import Artifact

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.name for path in (REPOSITORY / "examples").glob("*.py"))
WITHOUT_ARTIFACT = ("01_generate.py", "05_own_pass.py")
"""The first makes the artifact that the others open; the last makes one of its own."""
PRINTED = {
    "01_generate.py": "48 tokens, length\n",
    "02_stream.py": "first token after",
    "03_engine.py": "32 of 58 prompt tokens were cached\n4 requests",
    "04_schema.py": '"prophet": ',
}


def run(example: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs an example in a folder that has `examples/`, and `build/` of its own."""
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    command = [sys.executable, f"examples/{example}"]
    return subprocess.run(
        command, cwd=folder, env={**os.environ}, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("example", PRINTED)
def test_it_runs(example: str, tmp_path: Path, tiny_dense_artifact: Artifact) -> None:
    (tmp_path / "build/demo").mkdir(parents=True)
    (tmp_path / "build/demo/tiny-dense.edgec").symlink_to(tiny_dense_artifact.path)
    done = run(example, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert PRINTED[example] in done.stdout


@pytest.mark.compiles
def test_own_pass_is_applied(tmp_path: Path) -> None:
    done = run("05_own_pass.py", tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip()
    exported = (tmp_path / "build/own-pass/torch.mlir").read_text(encoding="utf-8")
    assert exported.count("torch.aten.sigmoid") == 2  # prefill and decode
    assert "torch.aten.silu" not in exported


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e not in WITHOUT_ARTIFACT])
def test_a_missing_artifact_is_explained(example: str, tmp_path: Path) -> None:
    done = run(example, tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "build/demo/tiny-dense.edgec is missing; run: python examples/01_generate.py\n"
    )


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_says_how_it_is_run(example: str) -> None:
    assert example in {*PRINTED, "05_own_pass.py"}  # a new one is run too
    text = (REPOSITORY / "examples" / example).read_text(encoding="utf-8")
    assert f"\n    python examples/{example}\n" in (ast.get_docstring(ast.parse(text)) or "")
    assert len(text.splitlines()) <= 50
