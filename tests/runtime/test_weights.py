"""Mapped files: how they are opened, what the kernel was told of them, and when they are let go."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgec.artifact import Artifact
from edgec.runtime.weights import MappedWeights

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not THP.exists(), reason="a kernel without large pages")
def test_large_pages_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "w.irpa"
    path.write_bytes(bytes(5 << 20))
    weights = MappedWeights(path)
    assert weights.handle().is_host_allocation
    lines = Path("/proc/self/smaps").read_text("utf-8").splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    flags = next(line for line in lines[at:] if line.startswith("VmFlags:"))
    assert "hg" in flags.split()
    assert " r--s " in lines[at]


OPENED = """
import os, sys

opened = {}

def watch(event, arguments):
    if event == "open" and str(arguments[0]).startswith(sys.argv[1]):
        opened[os.path.basename(arguments[0])] = opened.get(arguments[0], 0) | arguments[2]

sys.addaudithook(watch)
from edgec import Session
print(Session(sys.argv[1]).generate("Once", max_new_tokens=2).finish_reason)
assert {"cpu.vmfb", "weights.irpa", "tokenizer_config.json"} <= set(opened), opened
writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
assert not [name for name, flags in opened.items() if flags & writing], opened
"""


def test_an_artifact_that_cannot_be_written(tiny_dense_artifact: Artifact, tmp_path: Path) -> None:
    """A read-only file system, or another user's; root may write, and does not try to."""
    folder = tmp_path / "tiny.edgec"
    shutil.copytree(tiny_dense_artifact.path, folder)
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "length\n"), done.stderr


LOADED = """
import os, shutil, sys
from pathlib import Path
import numpy as np
from edgec.artifact import Artifact
from edgec.runtime.program import LoadedProgram

source, place, queued = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "queued"

def load(name):
    shutil.copytree(source, place / name)
    program = LoadedProgram(Artifact.open(place / name))
    state = program.create_state()
    output = program.prefill(np.zeros((1, 32), np.int32), 0, 5, state)
    if not queued:
        output.token()
    shutil.rmtree(place / name)

def held():
    maps = Path("/proc/self/maps").read_text("utf-8")
    return len(os.listdir("/proc/self/fd")), maps.count(str(place))

load("first.edgec")
before = held()[0]
for number in range(12):
    load(f"{number}.edgec")
assert held()[0] <= before + queued and held()[1] <= queued, (before, held())
print("done")
"""


@pytest.mark.parametrize("calls", ["done", "queued"])
def test_weights_of_dropped_programs_are_let_go(
    tiny_dense_artifact: Artifact, tmp_path: Path, calls: str
) -> None:
    """A server that is updated would end without descriptors, or with a full disk."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(tiny_dense_artifact.path), str(tmp_path), calls],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
