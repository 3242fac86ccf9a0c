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

import numpy as np
import pytest

from edgec.artifact import Artifact
from edgec.errors import DeviceError
from edgec.runtime import Session

PROMPT = [5, 6, 7, 100, 2000]
SIZES = {"layers": 2, "ctx_size": 64, "chunk_size": 64}


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


def run(emulator: list[str], repository: Path, *arguments: str | Path) -> str:
    script = repository / "tests" / "targets" / "emulated.py"
    done = subprocess.run(
        [*emulator, str(script), *map(str, arguments)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


IDS = ",".join(map(str, PROMPT))


@pytest.mark.parametrize(
    ("dtype", "quantize"),
    [
        ("f32", "none"),
        pytest.param("f32", "int8", marks=pytest.mark.slow),
        pytest.param("f16", "none", marks=pytest.mark.slow),
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
    here, there = both(compile_once, dtype, quantize)
    expected = (
        Session(here).generate(PROMPT, max_new_tokens=16, temperature=0, ignore_eos=True).tokens
    )
    printed = run(emulator, repository, there.path, IDS, tmp_path / "cpuinfo")
    assert json.loads(printed) == list(expected)


@pytest.mark.parametrize(
    ("cpu", "quantize"),
    [
        # The prompt is computed by matrix products of integers, steps by dot products.
        ("apple-m2", "int8"),
        pytest.param("apple-m2", "int4", marks=pytest.mark.slow),
        pytest.param("cortex-a76", "int4", marks=pytest.mark.slow),
    ],
)
def test_quantised_as_on_this_machine(
    cpu: str,
    quantize: str,
    emulator: list[str],
    repository: Path,
    tmp_path: Path,
    compile_once: Callable[..., Artifact],
) -> None:
    """The same logits, as near as kernels that add in another order are: see docs/quantisation.md.

    A rounding of an activation that falls the other way moves an int4 logit by half a percent of
    the range, which may turn a greedy choice. So both are given the same tokens.
    """
    here, there = both(compile_once, "f32", quantize, cpu)
    session = Session(here)
    tokens = session.generate(PROMPT, max_new_tokens=16, temperature=0, ignore_eos=True).tokens
    session.reset()
    expected = [session.sequence.extend(PROMPT).logits()]
    expected += [session.sequence.step(token).logits() for token in tokens[:-1]]
    following, file = ",".join(map(str, tokens)), tmp_path / "logits.npy"
    run(emulator, repository, there.path, IDS, tmp_path / "cpuinfo", following, file)
    actual, wanted = np.load(file), np.stack(expected)
    assert actual.shape == wanted.shape
    difference = np.abs(actual - wanted).max(axis=-1) / np.ptp(wanted)
    assert difference.max() < 0.015
    top = np.sort(wanted, axis=-1)
    clear = (top[:, -1] - top[:, -2]) / np.ptp(wanted) > 0.015
    assert clear.sum() > 4
    assert (actual.argmax(axis=-1) == wanted.argmax(axis=-1))[clear].all()


LEVELS = {"cortex-a76": "aarch64_dotprod", "apple-m2": "aarch64_i8mm"}


def both(
    compile_once: Callable[..., Artifact], dtype: str, quantize: str, cpu: str = "cortex-a76"
) -> tuple[Artifact, Artifact]:
    """The model for this machine and for the other, with its kernels."""
    options = SIZES | {"dtype": dtype, "quantize": quantize}
    name, model = f"{dtype}-{quantize}", "bundled:tiny-dense"
    there = compile_once(f"tiny-{cpu}-{name}", model, target=f"cpu:{cpu}", **options)
    assert f"kernel={LEVELS[cpu]}" in str(there.manifest.programs["cpu"])
    return compile_once(f"tiny-small-{name}", model, target="cpu", **options), there


@pytest.mark.skipif(platform.machine() == "aarch64", reason="this machine is one")
def test_refused_on_another_machine(compile_once: Callable[..., Artifact]) -> None:
    there = compile_once("tiny-a76", "bundled:tiny-dense", target="cpu:cortex-a76", **SIZES)
    with pytest.raises(DeviceError, match="program is for aarch64, this machine is"):
        Session(there)
