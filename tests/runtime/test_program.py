"""Refusals before and while a program is loaded."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.fakes import ANY_CPU, VOCAB, make_manifest

from edgec.archive import archive_head
from edgec.artifact import Artifact, sha256_of
from edgec.errors import ArtifactError, DeviceError, InputError
from edgec.manifest import (
    FileRecord,
    Memory,
    ModelInfo,
    ParameterFile,
    Program,
    Prompt,
    StateBuffer,
    entry_points,
)
from edgec.runtime.contract import check_program
from edgec.runtime.drivers import DRIVERS
from edgec.runtime.program import LoadedProgram, select_program

MEMORY = Memory(8, 4 * 288)


@pytest.fixture
def make_artifact(tmp_path: Path) -> Callable[..., Artifact]:
    """An artifact with weights and a file that is no program, but has the right SHA-256."""

    def make(**changes: Any) -> Artifact:
        (tmp_path / "cpu.vmfb").write_bytes(b"no program " * 100)
        head = archive_head({"w": 8})
        weights = head.content.ljust(head.offsets["w"], b"\0") + b"12345678"
        (tmp_path / "weights.irpa").write_bytes(weights.ljust(head.size, b"\0"))
        files = {
            path.name: FileRecord(path.stat().st_size, sha256_of(path))
            for path in tmp_path.iterdir()
        }
        parameters = ParameterFile("weights.irpa", "model", 1, 8)
        return Artifact(
            tmp_path,
            make_manifest(**{"files": files, "parameters": parameters, "memory": MEMORY} | changes),
        )

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
    return {"cpu": Program("cpu:host", "local-task", "cpu.vmfb", {}, ANY_CPU | requirements)}


CPU = {"cpu": Program("cpu:host", "local-task", "cpu.vmfb", {})}


def model(**changes: int) -> ModelInfo:
    return dataclasses.replace(make_manifest().model, **changes)  # type: ignore[arg-type]


def state(
    shape: tuple[int, ...], dtype: str = "i32", kind: str = "attention", **more: int
) -> tuple[StateBuffer, ...]:
    return (StateBuffer("cache", kind, shape, dtype, **more),)


def sized(*sizes: int) -> dict[str, Program]:
    return {"cpu": dataclasses.replace(cpu_program()["cpu"], prompt_sizes=sizes)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"versions": {"iree": "3.9.0"}}, "made with IREE 3.9.0.*iree-base-runtime==3.9.0"),
        ({"versions": {}}, "made with IREE None"),
        ({"entry_points": {}}, "no entry point decode and prefill"),
        ({"prompt": Prompt(32, 32, 48)}, "impossible prompt lengths"),
        ({"prompt": Prompt(32, 64, 128)}, "impossible prompt lengths"),
        ({"prompt": Prompt(0, 0, 0)}, "impossible prompt lengths"),
        (
            {"prompt": Prompt(64, 64, 64)},
            "288 rows, too few for a context of 256 and a block of 64",
        ),
        (
            {"model": model(vocab_size=10**6)},
            "entry points are not those of a vocabulary of 1000000",
        ),
        ({"model": model(vocab_size=0)}, "a vocabulary of 0"),
        ({"model": model(context=4096)}, "too few for a context of 4096"),
        ({"batch_sizes": (), "entry_points": entry_points(VOCAB, (1,))}, "impossible batch sizes"),
        ({"batch_sizes": (4, 1)}, "impossible batch sizes"),
        ({"batch_sizes": (2,)}, "no entry point decode"),
        (
            {"batch_sizes": (1, 2), "entry_points": entry_points(VOCAB, (1,))},
            "entry points are not those .* batches of 1, 2",
        ),
        ({"options": {"ctx_size": 128}}, "the option ctx_size was 128, not 256"),
        ({"options": {"prompt_multiple": 16}}, "the option prompt_multiple was 16, not 32"),
        ({"state": ()}, "0 state buffers"),
        ({"state": state((288, 1)) * 5000}, "5000 state buffers"),
        ({"state": state((288, 0))}, "cache has the shape"),
        ({"state": state(())}, "cache has the shape"),
        ({"state": state((288, 2**40))}, "have 1266637395197952 bytes, it says 1152"),
        ({"state": state((288, 1), "f99")}, "cache has an unknown type 'f99'"),
        ({"state": state((288, 1), kind="ring")}, "cache is of an unknown kind 'ring'"),
        ({"state": state((288, 1), checkpoint=1)}, "window 0, checkpoint 1"),
        ({"state": state((288, 1), window=40)}, "window 40, checkpoint 0"),
        ({"state": state((99, 1), kind="window", window=40)}, "window of 40 and a call of 64"),
        ({"memory": Memory(8, 8)}, "have 1152 bytes, it says 8"),
        ({"memory": Memory(9, 1152)}, "weights have 8 bytes, it says 9"),
        ({"programs": CPU}, "does not say what architecture cpu:host requires"),
        ({"programs": sized(64, 32)}, "impossible prompt sizes"),
        ({"programs": sized(32, 48)}, "impossible prompt sizes"),
        ({"programs": sized(0)}, "impossible prompt sizes"),
        (
            {"parameters": ParameterFile("weights.irpa", "model", 2, 8)},
            "1 tensors of 8 bytes, the manifest says 2 of 8",
        ),
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
    with pytest.raises(ArtifactError, match=r"weights\.irpa differs from its SHA-256"):
        LoadedProgram(artifact)


@pytest.mark.parametrize("at", range(0, 176, 4))
def test_a_table_of_weights_that_lies(make_artifact: Callable[..., Artifact], at: int) -> None:
    """With the right SHA-256: IREE adds the numbers, and a sum that wraps passes its checks."""
    artifact = make_artifact()
    file = artifact.path / "weights.irpa"
    data = bytearray(file.read_bytes())
    data[at : at + 4] = b"\xff\xff\xff\xff"
    file.write_bytes(data)
    record = FileRecord(len(data), sha256_of(file))
    files = artifact.manifest.files | {"weights.irpa": record}
    artifact = Artifact(artifact.path, dataclasses.replace(artifact.manifest, files=files))
    with pytest.raises(ArtifactError, match=r"weights\.irpa cannot be loaded: "):
        LoadedProgram(artifact)


def test_requirements_are_complete() -> None:
    """Without them SIGILL, or wrong numbers, would come from a program for another device."""
    for driver, known in DRIVERS.items():
        whole = dict.fromkeys(known.requirements, "8.6" if driver == "cuda" else "1")
        check_program(Path("a"), Program("x:y", driver, "f", {}, whole), Prompt(32, 32, 64))
        for name in whole:
            fewer = {key: value for key, value in whole.items() if key != name}
            with pytest.raises(ArtifactError, match=f"does not say what {name} x:y requires"):
                check_program(Path("a"), Program("x:y", driver, "f", {}, fewer), Prompt(32, 32, 64))


@pytest.mark.parametrize(
    ("driver", "name", "value"),
    [
        ("vulkan", "subgroup_size", "many"),
        ("vulkan", "shared_memory", "9" * 5000),
        ("cuda", "compute_capability", "8"),
        ("cuda", "compute_capability", "8.x"),
        ("local-task", "architecture", ""),
    ],
)
def test_requirements_that_are_none(driver: str, name: str, value: str) -> None:
    whole = dict.fromkeys(DRIVERS[driver.partition("-")[0]].requirements, "1") | {name: value}
    with pytest.raises(ArtifactError, match="requires an impossible"):
        check_program(Path("a"), Program("x", driver, "f", {}, whole), Prompt(32, 32, 64))


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
