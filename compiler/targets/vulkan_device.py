"""From what a Vulkan driver reports to a target: by IREE's table, or described in full."""

from __future__ import annotations

import re

from edgec.vulkan import VulkanDevice

__all__ = ["architecture_of", "describe"]

# Vendor, pattern of the device's name, architecture. Names as drivers give them, such as
# "AMD Radeon RX 7900 XTX (RADV NAVI31)", "NVIDIA GeForce RTX 3060", "Mali-G715-Immortalis MC11".
_DEVICES = (
    (0x10005, r"llvmpipe", "llvmpipe"),
    (0x10DE, r"RTX 40\d\d|RTX \d+ .*Ada|\bL4\b|\bL40S?\b", "ada"),
    (0x10DE, r"RTX 30\d\d|RTX A\d+|\bA(2|10|16|30|40|100)\b", "ampere"),
    (0x10DE, r"RTX 20\d\d|GTX 16\d\d|\bT4\b|Quadro RTX", "turing"),
    (0x10DE, r"\bV100\b|TITAN V", "volta"),
    (0x10DE, r"GTX 10\d\d|\bP(4|40|100)\b", "pascal"),
    (0x1002, r"NAVI4|GFX12|RX 90\d\d", "rdna4"),
    (0x1002, r"NAVI3|GFX11|RX 7\d00|Radeon 7[468]0M|Radeon 8[89]0M", "rdna3"),
    (0x1002, r"NAVI2|GFX103|VANGOGH|REMBRANDT|RX 6\d\d\d|Radeon 6[68]0M", "rdna2"),
    (0x1002, r"NAVI1|GFX101|RX 5\d00", "rdna1"),
    (0x13B5, r"Mali-G[67]15", "valhall4"),
    (0x13B5, r"Mali-G[357]10", "valhall3"),
    (0x13B5, r"Mali-G78", "valhall2"),
    (0x13B5, r"Mali-G[57]7", "valhall1"),
    (0x5143, r"Adreno", "adreno"),
)

# Cooperative matrices are opaque in SPIR-V: IREE takes only shape and types from the intrinsic.
_MATRICES = {
    "16x16x16:f16,f16,f32": "<NV_WMMA_F32_16x16x16_F16>",
    "16x16x16:f16,f16,f16": "<NV_WMMA_F16_16x16x16_F16>",
}


def architecture_of(device: VulkanDevice) -> str:
    """The name in IREE's table of a device's architecture; empty when it has none."""
    for vendor, pattern, name in _DEVICES:
        if device.vendor == vendor and re.search(pattern, device.name, re.IGNORECASE):
            return name
    return ""


def describe(device: VulkanDevice) -> tuple[str, str]:
    """A name made of the device's, and the `#iree_gpu.target` that its driver's report makes."""
    has = frozenset(device.capabilities)
    compute = ["fp32", "int32"]
    compute += [
        name
        for capability, name in (
            ("Float64", "fp64"), ("Float16", "fp16"), ("Int64", "int64"), ("Int16", "int16"),
            ("Int8", "int8"),
        )
        if capability in has
    ]  # fmt: skip
    storage = ["b32"]
    storage += ["b64"] if "Int64" in has else []
    storage += ["b16"] if "StorageBuffer16BitAccess" in has else []
    storage += ["b8"] if "StorageBuffer8BitAccess" in has else []
    operations = [
        name
        for capability, name in (
            ("GroupNonUniformShuffle", "shuffle"), ("GroupNonUniformArithmetic", "arithmetic"),
        )
        if capability in has
    ]  # fmt: skip
    matrices = [_MATRICES[m] for m in device.cooperative_matrices if m in _MATRICES]
    version = {(1, 0): "1.0", (1, 1): "1.3", (1, 2): "1.5"}.get(device.api, "1.6")
    name = re.sub(r"\(.*?\)", "", device.name.lower())
    name = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    fields = [
        f"compute = {'|'.join(compute)}",
        f"storage = {'|'.join(storage)}",
        f"subgroup = {'|'.join(operations) or 'none'}",
        *(["dot = dp4xi8toi32"] if "DotProduct" in has else []),
        *([f"mma = [{', '.join(matrices)}]"] if matrices else []),
        f"subgroup_size_choices = [{device.subgroup_sizes[0]}]",
        f"max_workgroup_sizes = {_list(device.workgroup_size)}",
        f"max_thread_count_per_workgroup = {device.workgroup_threads}",
        f"max_workgroup_memory_bytes = {device.shared_memory}",
        f"max_workgroup_counts = {_list(device.workgroup_count)}",
    ]
    features = f"spirv:v{version},cap:Shader"
    wgp = f"<{', '.join(fields)}>"
    return name, f'#iree_gpu.target<arch = "{name}", features = "{features}", wgp = {wgp}>'


def _list(sizes: tuple[int, int, int]) -> str:
    """Sizes as IREE has them, in 32-bit signed integers."""
    return f"[{', '.join(str(min(size, 2**31 - 1)) for size in sizes)}]"
