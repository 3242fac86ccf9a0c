"""`edgec doctor`, its probes in processes of their own, and what it reads of the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgec.cli import doctor, probe, system
from edgec.vulkan import VulkanDevice

Edgec = Callable[..., Any]


def test_this_machine(edgec_in_process: Edgec) -> None:
    done = edgec_in_process("doctor", "--json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["runs"]["cpu"] is True
    assert {"vulkan", "cuda", "edgec compile"} <= report["runs"].keys()
    for check in report["checks"]:
        assert check["ok"] or check["remedy"], check


def test_table(edgec_in_process: Edgec) -> None:
    done = edgec_in_process("doctor")
    assert done.code == 0, done.stderr
    assert "iree-base-runtime" in done.stdout


def test_list_devices(edgec_in_process: Edgec) -> None:
    done = edgec_in_process("run", "--list-devices")
    assert done.stdout.startswith("cpu\t")


def test_a_cpu_that_cannot_run(edgec_in_process: Edgec, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"devices": [], "error": "the driver failed"}
    monkeypatch.setattr(doctor, "probe", lambda driver: missing)
    done = edgec_in_process("doctor", "--json")
    assert done.code == 1
    assert json.loads(done.stdout)["runs"] == {
        "cpu": False, "vulkan": False, "cuda": False, "edgec compile": True,
    }  # fmt: skip


def test_a_driver_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run

    def crash(command: list[str], **options: Any) -> Any:
        return real([sys.executable, "-c", "import os; os.abort()"], **options)

    monkeypatch.setattr(probe.subprocess, "run", crash)
    answer = probe.probe("vulkan")
    assert answer["devices"] == []
    assert "the driver failed (exit -6)" in answer["error"]


def test_an_unknown_driver() -> None:
    assert "no frobnicate driver" in probe.probe("frobnicate")["error"]


def test_arm_cpuinfo(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n\nModel\t\t: Raspberry Pi 5\n"
    )
    cpu = system.cpu(tmp_path / "cpuinfo")
    assert cpu.name == "Raspberry Pi 5"
    assert cpu.features == ("neon", "fp16", "dotprod")


def test_vulkan_drivers_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VK_DRIVER_FILES", "/a.json:/b.json")
    assert system.vulkan_drivers()[1] == ["/a.json", "/b.json"]


def test_the_vulkan_architecture_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    device = VulkanDevice(
        "llvmpipe (LLVM 15)", "00", 0x10005, (1, 3), (8, 8, 8), (), (), 32768, 1024,
        (1024, 1024, 1024), (65535, 65535, 65535), 1 << 27, 2 << 30,
    )  # fmt: skip
    monkeypatch.setattr(doctor.vulkan, "probe", lambda: [device])
    (check,) = doctor._vulkan_target()
    assert check.found.startswith("--target vulkan:llvmpipe (subgroups of 8, 32 KB shared")


def test_no_vulkan_device_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.vulkan, "probe", list)
    assert doctor._vulkan_target() == []
