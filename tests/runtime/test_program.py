"""What is refused before and while a program is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import iree.runtime as rt
import pytest
from tests.runtime.fakes import make_manifest

from edgec.artifact import Artifact, sha256_of
from edgec.errors import ArtifactError, DeviceError, InputError
from edgec.manifest import FileRecord, Program, Prompt
from edgec.runtime.program import LoadedProgram, select_program


@pytest.fixture
def make_artifact(tmp_path: Path) -> Callable[..., Artifact]:
    """An artifact with weights and a file that is no program, but has the right SHA-256."""

    def make(**changes: Any) -> Artifact:
        (tmp_path / "cpu.vmfb").write_bytes(b"no program " * 100)
        index = rt.ParameterIndex()
        index.add_buffer("w", b"12345678")
        index.create_archive_file(str(tmp_path / "weights.irpa"))
        files = {
            path.name: FileRecord(path.stat().st_size, sha256_of(path))
            for path in tmp_path.iterdir()
        }
        return Artifact(tmp_path, make_manifest(**({"files": files} | changes)))

    return make


PROGRAMS = {
    name: Program(target, "local-task", "x.vmfb", {})
    for name, target in {"cpu": "cpu:znver4", "a": "vulkan:ampere", "b": "vulkan:rdna3"}.items()
}


@pytest.mark.parametrize(
    ("device", "target"),
    [
        (None, "cpu:znver4"),
        ("cpu", "cpu:znver4"),
        ("cpu:znver4", "cpu:znver4"),
        ("vulkan:rdna3", "vulkan:rdna3"),
    ],
)
def test_a_device_selects_its_program(
    make_artifact: Callable[..., Artifact], device: str | None, target: str
) -> None:
    assert select_program(make_artifact(programs=PROGRAMS), device).target == target


def test_the_only_program_needs_no_name(make_artifact: Callable[..., Artifact]) -> None:
    artifact = make_artifact(programs={"b": PROGRAMS["b"]})
    assert select_program(artifact, None) is select_program(artifact, "vulkan") is PROGRAMS["b"]


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("cuda", "programs for cpu:znver4, vulkan:ampere, vulkan:rdna3.*--target cuda"),
        ("vulkan", "several programs"),
    ],
)
def test_a_device_without_one_program(
    make_artifact: Callable[..., Artifact], device: str, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        select_program(make_artifact(programs=PROGRAMS), device)


def cpu_program(**requirements: str) -> dict[str, Program]:
    return {"cpu": Program("cpu:host", "local-task", "cpu.vmfb", {}, requirements)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"versions": {"iree": "3.9.0"}}, "made with IREE 3.9.0.*iree-base-runtime==3.9.0"),
        ({"versions": {}}, "made with IREE None"),
        ({"entry_points": {}}, "no entry point decode and prefill"),
        ({"prompt": Prompt(32, 32, 48)}, "impossible prompt lengths"),
        ({"prompt": Prompt(32, 64, 128)}, "impossible prompt lengths"),
        ({"prompt": Prompt(0, 0, 0)}, "impossible prompt lengths"),
        ({"files": {}}, "differs from its SHA-256"),
        ({}, "cpu.vmfb cannot be loaded"),
    ],
)
def test_artifacts_that_cannot_run(
    make_artifact: Callable[..., Artifact], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ArtifactError, match=says):
        LoadedProgram(make_artifact(**changes))


def test_damaged_code_is_not_run(make_artifact: Callable[..., Artifact]) -> None:
    artifact = make_artifact()
    file = artifact.path / "cpu.vmfb"
    data = bytearray(file.read_bytes())
    data[500] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match="differs from its SHA-256"):
        LoadedProgram(artifact)


def test_damaged_weights(make_artifact: Callable[..., Artifact]) -> None:
    artifact = make_artifact()
    file = artifact.path / "weights.irpa"
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(ArtifactError, match=r"weights\.irpa cannot be loaded"):
        LoadedProgram(artifact)


@pytest.mark.parametrize(
    ("requirements", "says"),
    [
        ({"architecture": "riscv64"}, "is for riscv64, this machine is"),
        ({"cpu_features": "avx999"}, "needs avx999, which this CPU lacks"),
    ],
)
def test_another_cpu_is_refused(
    make_artifact: Callable[..., Artifact], requirements: dict[str, str], says: str
) -> None:
    with pytest.raises(DeviceError, match=says):
        LoadedProgram(make_artifact(programs=cpu_program(**requirements)))


def test_a_driver_that_does_not_exist(make_artifact: Callable[..., Artifact]) -> None:
    programs = {"npu": Program("npu", "npu", "cpu.vmfb", {})}
    with pytest.raises(DeviceError, match="'npu' cannot be opened.*local-task"):
        LoadedProgram(make_artifact(programs=programs))


@pytest.mark.parametrize("threads", [0, 65])
def test_threads_out_of_range(make_artifact: Callable[..., Artifact], threads: int) -> None:
    with pytest.raises(InputError, match="from 1 to 64"):
        LoadedProgram(make_artifact(), threads=threads)


def test_threads_hold_for_the_process() -> None:
    code = """
import os
from edgec.errors import InputError
from edgec.runtime.device import open_device
import iree.runtime
before = len(os.listdir("/proc/self/task"))
open_device("local-task", 1)
one = len(os.listdir("/proc/self/task")) - before
open_device("local-task", 1)
open_device("local-task")
try:
    open_device("local-task", 2)
except InputError as error:
    print(one, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    started, message = done.stdout.split(" ", 1)
    assert int(started) <= 2  # one worker, and IREE's poller
    assert message.startswith("threads=2: this process already runs with 1 threads")
