"""Descriptions of Vulkan targets, and what is refused of devices; needs no driver."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import edgec.compiler.targets.vulkan as target_module
from edgec import vulkan
from edgec.compiler.stages import prompt_sizes, torch_pipeline
from edgec.compiler.targets import parse_targets, spirv
from edgec.compiler.targets.vulkan_device import architecture_of, describe
from edgec.errors import DeviceError, InputError
from edgec.manifest import Program
from edgec.options import CompileOptions
from edgec.runtime.program import split_block
from edgec.runtime.vulkan import check_device, check_vulkan

GPU = vulkan.VulkanDevice(
    name="NVIDIA GeForce RTX 3060",
    uuid="00" * 16,
    vendor=0x10DE,
    api=(1, 3),
    subgroup_sizes=(32, 32, 32),
    capabilities=("Int64", "Float16", "StorageBuffer16BitAccess", "GroupNonUniform",
                  "GroupNonUniformArithmetic", "GroupNonUniformShuffle", "CooperativeMatrixKHR"),
    cooperative_matrices=("16x16x16:f16,f16,f32", "16x8x16:f16,f16,f32"),
    shared_memory=49152,
    workgroup_threads=1024,
    workgroup_size=(1024, 1024, 64),
    workgroup_count=(2**31 - 1, 65535, 65535),
    storage_buffer=2**32 - 1,
    memory=12 << 30,
)  # fmt: skip


def like(**changes: object) -> vulkan.VulkanDevice:
    return vulkan.VulkanDevice(**{**vars(GPU), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variant", "subgroup", "shared", "cooperative"),
    [
        ("llvmpipe", 8, 32768, False),
        ("ampere", 32, 49152, True),
        ("ada", 32, 49152, True),
        ("rtx4090", 32, 49152, True),
        ("rdna3", 64, 65536, True),
        ("valhall4", 16, 32768, False),
        ("adreno", 64, 32768, False),
        ("baseline", 64, 16384, False),
    ],
)
def test_known_architectures(variant: str, subgroup: int, shared: int, cooperative: bool) -> None:
    (target,) = parse_targets(f"vulkan:{variant}")
    assert target.requirements["subgroup_size"] == str(subgroup)
    assert target.requirements["shared_memory"] == str(shared)
    assert f"subgroup_size_choices = [{subgroup}]" in target.device
    assert ("compute=weights" in str(target.torch_pipeline)) is cooperative
    assert target.driver == "vulkan"


def test_an_unknown_architecture() -> None:
    with pytest.raises(InputError, match="'vulkan:nope': unknown architecture.*llvmpipe, ampere"):
        parse_targets("vulkan:nope")


@pytest.mark.parametrize(
    ("vendor", "name", "architecture"),
    [
        (0x10005, "llvmpipe (LLVM 15.0.6, 256 bits)", "llvmpipe"),
        (0x10DE, "NVIDIA GeForce RTX 3060", "ampere"),
        (0x10DE, "NVIDIA GeForce RTX 4090", "ada"),
        (0x10DE, "NVIDIA H100 80GB HBM3", ""),
        (0x1002, "AMD Radeon RX 7900 XTX (RADV NAVI31)", "rdna3"),
        (0x1002, "AMD Radeon RX 6800 (RADV NAVI21)", "rdna2"),
        (0x13B5, "Mali-G715-Immortalis MC11", "valhall4"),
        (0x5143, "Adreno (TM) 740", "adreno"),
        (0x8086, "Intel(R) Arc(tm) A770 Graphics", ""),
    ],
)
def test_architecture_of_a_device(vendor: int, name: str, architecture: str) -> None:
    assert architecture_of(like(vendor=vendor, name=name)) == architecture


def test_the_device_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "probe", lambda: [like()])
    assert parse_targets("vulkan")[0].architecture == "ampere"
    wide = like(vendor=0x10005, name="llvmpipe (LLVM 17, 512 bits)", subgroup_sizes=(16, 16, 16))
    monkeypatch.setattr(target_module, "probe", lambda: [wide])
    (target,) = parse_targets("vulkan")
    assert target.architecture == "llvmpipe-16"
    assert target.requirements["subgroup_size"] == "16"


def test_without_a_device_programs_are_for_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> list[vulkan.VulkanDevice]:
        raise vulkan.VulkanError("no loader")

    monkeypatch.setattr(target_module, "probe", none)
    assert parse_targets("vulkan")[0].architecture == target_module.BASELINE


def test_description_of_an_unknown_device() -> None:
    name, attribute = describe(like(name="NVIDIA H100 80GB HBM3"))
    assert name == "nvidia-h100-80gb-hbm3"
    assert "mma = [<NV_WMMA_F32_16x16x16_F16>]" in attribute
    assert "compute = fp32|int32|fp16|int64," in attribute
    assert "max_workgroup_memory_bytes = 49152" in attribute


def test_prompt_sizes() -> None:
    (target,) = parse_targets("vulkan:llvmpipe")
    options = CompileOptions(ctx_size=512, chunk_size=256)
    assert prompt_sizes(target, options) == (32, 64, 128, 256)
    assert "static-prefill{sizes=32/64/128/256}," in str(torch_pipeline(target, options))
    plain = CompileOptions(ctx_size=512, chunk_size=256, dynamic_shapes="none")
    assert prompt_sizes(target, plain) == ()
    one = CompileOptions(ctx_size=512, chunk_size=32)
    assert prompt_sizes(target, one) == ()


@pytest.mark.parametrize(
    ("size", "parts"), [(32, [32]), (96, [64, 32]), (256, [256]), (224, [128, 64, 32])]
)
def test_blocks_are_split_largest_first(size: int, parts: list[int]) -> None:
    assert split_block(size, (32, 64, 128, 256)) == parts
    assert split_block(size, ()) == [size]


def program(**requirements: str) -> Program:
    return Program("vulkan:test", "vulkan", "v.vmfb", "", requirements)


@pytest.mark.parametrize(
    ("requirements", "lacks"),
    [
        ({"subgroup_size": "64"}, r"subgroups of 64 \(it has 32\)"),
        ({"subgroup_size": "64", "capabilities": "GroupNonUniform"}, "subgroups of 64"),
        ({"shared_memory": "65536"}, r"65536 bytes of shared memory \(it has 49152\)"),
        ({"workgroup_threads": "2048"}, "2048 threads in a workgroup"),
        ({"capabilities": "Int64,Int8"}, "needs 8-bit integers"),
    ],
)
def test_a_device_that_lacks_something(requirements: dict[str, str], lacks: str) -> None:
    with pytest.raises(DeviceError, match=lacks) as caught:
        check_device(program(**requirements), GPU)
    assert "\n" not in str(caught.value)


def test_a_device_that_suffices() -> None:
    check_device(program(subgroup_size="32", capabilities="Int64,GroupNonUniform"), GPU)
    check_device(program(subgroup_size="64", capabilities=""), GPU)


@pytest.mark.parametrize(
    ("found", "says"),
    [([], "no Vulkan device"), (vulkan.VulkanError("no Vulkan loader"), "no Vulkan loader")],
)
def test_no_device(found: object, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer() -> object:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(vulkan, "devices", answer)
    with pytest.raises(DeviceError, match=f"{says}.*edgec doctor"):
        check_vulkan(program(), 0)


def test_a_driver_that_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run

    def crash(command: list[str], **options: object) -> object:
        return real([sys.executable, "-c", "import os; os.abort()"], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(vulkan.subprocess, "run", crash)
    with pytest.raises(vulkan.VulkanError, match=re.escape("failed (exit -6)")):
        vulkan.probe()


def test_capabilities_are_read_from_the_shaders() -> None:
    header = struct.pack("<5I", 0x07230203, 0x10600, 0, 10, 0)
    module = header + struct.pack("<6I", 0x20011, 1, 0x20011, 11, 0x3000E, 0)
    other = header + struct.pack("<4I", 0x20011, 4433, 0x3000E, 0)
    found = spirv.capabilities(b"head" + module + b"between" + other)
    assert found == {"Int64", "StorageBuffer16BitAccess"}


def test_no_program_holds_none(tmp_path: Path) -> None:
    assert spirv.capabilities(b"") == frozenset()
