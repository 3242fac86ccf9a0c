"""A program cross-compiled for a Raspberry Pi 5, run by an AArch64 Python under emulation."""

from __future__ import annotations

import fcntl
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgec.artifact import Artifact
from edgec.errors import DeviceError
from edgec.runtime import Session

PROMPT = [5, 6, 7, 100, 2000]
SIZES = {"ctx_size": 64, "chunk_size": 64}


@pytest.fixture(scope="module")
def emulator(repository: Path) -> list[str]:
    """The command that starts an AArch64 Python with edgec and what a device installs."""
    folder = repository / "build" / "aarch64"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / "aarch64.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        script = repository / "scripts" / "aarch64.sh"
        done = subprocess.run(
            ["sh", str(script), str(folder), sys.executable], capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    assert qemu is not None
    path = f"PYTHONPATH={folder / 'site'}:{repository / 'src'}"
    root = folder / "root"
    return [qemu, "-cpu", "max", "-L", str(root), "-E", path, str(root / "usr/bin/python3")]


@pytest.mark.parametrize(
    ("dtype", "quantize"),
    [
        ("f32", "none"),
        ("f32", "int8"),
        pytest.param("f16", "none", marks=pytest.mark.slow),
        pytest.param("f32", "int4", marks=pytest.mark.slow),
    ],
)
def test_same_tokens_as_on_this_machine(
    dtype: str,
    quantize: str,
    emulator: list[str],
    repository: Path,
    tmp_path: Path,
    compile_once: Callable[..., Artifact],
) -> None:
    model = "bundled:tiny-dense"
    options = SIZES | {"dtype": dtype, "quantize": quantize}
    name = f"{dtype}-{quantize}"
    there = compile_once(f"tiny-a76-{name}", model, target="cpu:cortex-a76", **options)
    here = compile_once(f"tiny-small-{name}", model, target="cpu", **options)
    assert "kernel=aarch64_dotprod" in str(there.manifest.programs["cpu"])
    expected = (
        Session(here).generate(PROMPT, max_new_tokens=16, temperature=0, ignore_eos=True).tokens
    )
    script = repository / "tests" / "targets" / "emulated.py"
    ids = ",".join(map(str, PROMPT))
    done = subprocess.run(
        [*emulator, str(script), str(there.path), ids, str(tmp_path / "cpuinfo")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == list(expected)


@pytest.mark.skipif(platform.machine() == "aarch64", reason="this machine is one")
def test_refused_on_another_machine(compile_once: Callable[..., Artifact]) -> None:
    there = compile_once("tiny-a76", "bundled:tiny-dense", target="cpu:cortex-a76", **SIZES)
    with pytest.raises(DeviceError, match="program is for aarch64, this machine is"):
        Session(there)
