"""Whether the Vulkan device at hand meets what a program assumes.

A program compiled for subgroups of another size computes wrong numbers, silently. It is refused.
"""

from __future__ import annotations

from edgec import vulkan
from edgec.errors import DeviceError
from edgec.manifest import Program
from edgec.runtime.memory import check_memory

__all__ = ["check_vulkan"]

_DRIVER = "install the GPU's Vulkan driver; edgec doctor says what is missing"
_MEANING = {
    "Int64": "64-bit integers",
    "Float16": "16-bit floats",
    "Int16": "16-bit integers",
    "Int8": "8-bit integers",
    "StorageBuffer16BitAccess": "16-bit storage",
    "StorageBuffer8BitAccess": "8-bit storage",
    "CooperativeMatrixKHR": "cooperative matrices",
}


def check_vulkan(program: Program, needed: int) -> None:
    """Refuses a Vulkan program that the first device, which is IREE's choice, cannot run rightly.

    Args:
        program: Of its requirements, `subgroup_size`, `shared_memory`, `workgroup_threads` and
            `capabilities` (SPIR-V names, comma list) are looked at.
        needed: Bytes that weights, state and a call take.

    Raises:
        DeviceError: no loader, driver or device; or one that lacks something, which is named.
    """
    try:
        found = vulkan.devices()
    except vulkan.VulkanError as error:
        raise DeviceError(f"device 'vulkan': {error}", _DRIVER) from None
    if not found:
        raise DeviceError("device 'vulkan': no Vulkan device on this machine", _DRIVER)
    check_device(program, found[0])
    check_memory(found[0].name, needed, found[0].memory)


def check_device(program: Program, device: vulkan.VulkanDevice) -> None:
    """Refuses a program whose assumptions a device does not meet; see `check_vulkan`."""
    required = program.requirements
    capabilities = [name for name in required.get("capabilities", "").split(",") if name]
    lacks = []
    subgroup = int(required.get("subgroup_size", 0))
    # Without subgroup operations their size does not matter. IREE asks the driver for a size in
    # some kernels only, so that the usual one must be right.
    uses_subgroups = "capabilities" not in required or any(
        name.startswith("GroupNonUniform") for name in capabilities
    )
    if subgroup and uses_subgroups and device.subgroup_sizes[0] != subgroup:
        lacks.append(f"subgroups of {subgroup} (it has {device.subgroup_sizes[0]})")
    for name, meaning, has in (
        ("shared_memory", "bytes of shared memory", device.shared_memory),
        ("workgroup_threads", "threads in a workgroup", device.workgroup_threads),
    ):
        if int(required.get(name, 0)) > has:
            lacks.append(f"{required[name]} {meaning} (it has {has})")
    lacks += [_MEANING.get(n, n) for n in capabilities if n not in device.capabilities]
    if lacks:
        raise DeviceError(
            f"the artifact's program for {program.target} needs {', '.join(lacks)}: "
            f"{device.name} cannot run it",
            "compile on this machine with --target vulkan",
        )
