"""Facts about the Vulkan devices of this machine, through a few calls of the loader.

The compiler asks it what to compile for, the runtime whether a program fits, `edgec doctor` what
there is. A broken driver can end the process that loads it: `probe` asks in a process of its own,
`python -m edgec.vulkan`. Layouts and numbers are those of the Vulkan 1.3 specification.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_char,
    c_char_p,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from dataclasses import dataclass
from typing import Any

__all__ = ["VulkanDevice", "VulkanError", "devices", "probe"]


class VulkanError(Exception):
    """Raised where no Vulkan loader is found, or a call into it failed."""


@dataclass(frozen=True)
class VulkanDevice:
    """Properties that code generation depends on. Sizes are bytes.

    Attributes:
        uuid: Hexadecimal, as in IREE's device path `GPU-<uuid>`.
        vendor: PCI vendor, or Khronos's number of one.
        api: Vulkan version, such as (1, 3).
        subgroup_sizes: The usual size, then the smallest and the largest that can be asked for.
        capabilities: What shaders may use, by SPIR-V's names.
        cooperative_matrices: Of subgroups, `MxNxK:A,B,C` with C also the result's type.
        memory: Of the largest heap of the device's own, as much of it as is free where known.
    """

    name: str
    uuid: str
    vendor: int
    api: tuple[int, int]
    subgroup_sizes: tuple[int, int, int]
    capabilities: tuple[str, ...]
    cooperative_matrices: tuple[str, ...]
    shared_memory: int
    workgroup_threads: int
    workgroup_size: tuple[int, int, int]
    workgroup_count: tuple[int, int, int]
    storage_buffer: int
    memory: int


def probe(timeout: float = 60) -> list[VulkanDevice]:
    """The devices, found in a process of its own.

    Raises:
        VulkanError: no loader, no answer, or a driver that ended the process.
    """
    command = [sys.executable, "-m", "edgec.vulkan"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise VulkanError(f"the Vulkan driver did not answer in {timeout:.0f} s") from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise VulkanError(f"the Vulkan driver failed (exit {done.returncode})") from None
    if isinstance(answer, str):
        raise VulkanError(answer)
    return [_parse(one) for one in answer]


def _parse(fields: dict[str, Any]) -> VulkanDevice:
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return VulkanDevice(**plain)


def devices() -> list[VulkanDevice]:
    """The devices in the loader's order, which is also IREE's.

    Raises:
        VulkanError: no loader, or no driver that it can use.
    """
    library = _load()
    version = c_uint32(_version(1, 0))
    # Vulkan 1.0 lacks the call.
    if hasattr(library, "vkEnumerateInstanceVersion"):
        library.vkEnumerateInstanceVersion(byref(version))
    application = _ApplicationInfo(s_type=0, api_version=min(version.value, _version(1, 3)))
    info = _InstanceInfo(s_type=1, application=ctypes.pointer(application))
    instance = c_void_p()
    _check(library.vkCreateInstance(byref(info), None, byref(instance)), "vkCreateInstance")
    try:
        count = c_uint32()
        enumerate_devices = library.vkEnumeratePhysicalDevices
        _check(enumerate_devices(instance, byref(count), None), "vkEnumeratePhysicalDevices")
        handles = (c_void_p * count.value)()
        _check(enumerate_devices(instance, byref(count), handles), "vkEnumeratePhysicalDevices")
        return [_describe(library, instance, c_void_p(handle)) for handle in handles]
    finally:
        library.vkDestroyInstance(instance, None)


def _load() -> Any:
    for name in ("libvulkan.so.1", "vulkan-1.dll", ctypes.util.find_library("vulkan")):
        if name:
            try:
                return ctypes.CDLL(name)
            except OSError:
                continue
    raise VulkanError("no Vulkan loader (libvulkan.so.1)")


def _check(result: int, call: str) -> None:
    if result == -9:
        raise VulkanError("no Vulkan driver that the loader can use")
    if result < 0:
        raise VulkanError(f"{call} failed with VkResult {result}")


def _version(major: int, minor: int) -> int:
    return major << 22 | minor << 12


class _ApplicationInfo(Structure):
    _fields_ = (
        ("s_type", c_uint32),
        ("next", c_void_p),
        ("application", c_char_p),
        ("application_version", c_uint32),
        ("engine", c_char_p),
        ("engine_version", c_uint32),
        ("api_version", c_uint32),
    )


class _InstanceInfo(Structure):
    _fields_ = (
        ("s_type", c_uint32),
        ("next", c_void_p),
        ("flags", c_uint32),
        ("application", POINTER(_ApplicationInfo)),
        ("layer_count", c_uint32),
        ("layers", c_void_p),
        ("extension_count", c_uint32),
        ("extensions", c_void_p),
    )


class _Limits(Structure):
    """VkPhysicalDeviceLimits, 504 bytes, with names for what is read."""

    _fields_ = (
        ("_images", c_uint32 * 7),
        ("storage_buffer", c_uint32),
        ("_up_to_compute", c_uint32 * 46),
        ("shared_memory", c_uint32),
        ("workgroup_count", c_uint32 * 3),
        ("workgroup_threads", c_uint32),
        ("workgroup_size", c_uint32 * 3),
        ("_rest", c_uint64 * 32),
    )


class _Properties(Structure):
    """VkPhysicalDeviceProperties2."""

    _fields_ = (
        ("s_type", c_uint32),
        ("next", c_void_p),
        ("api_version", c_uint32),
        ("driver_version", c_uint32),
        ("vendor", c_uint32),
        ("device", c_uint32),
        ("kind", c_uint32),
        ("name", c_char * 256),
        ("cache_uuid", c_uint8 * 16),
        ("limits", _Limits),
        ("sparse", c_uint32 * 5),
    )


class _Chained(Structure):
    """A structure of 32-bit fields that extends another; 64 of them hold any that is used."""

    _fields_ = (("s_type", c_uint32), ("next", c_void_p), ("fields", c_uint32 * 64))


class _Memory(Structure):
    """VkPhysicalDeviceMemoryProperties2."""

    _fields_ = (
        ("s_type", c_uint32),
        ("next", c_void_p),
        ("type_count", c_uint32),
        ("types", c_uint32 * 64),
        ("heap_count", c_uint32),
        ("heaps", c_uint64 * 32),  # pairs of size and flags
    )


class _Budget(Structure):
    """VkPhysicalDeviceMemoryBudgetPropertiesEXT; zeros where a driver does not have it."""

    _fields_ = (
        ("s_type", c_uint32),
        ("next", c_void_p),
        ("budget", c_uint64 * 16),
        ("usage", c_uint64 * 16),
    )


class _Matrix(Structure):
    """VkCooperativeMatrixPropertiesKHR."""

    _fields_ = (
        ("s_type", c_uint32),
        ("next", c_void_p),
        *((name, c_uint32) for name in ("m", "n", "k", "a", "b", "c", "result")),
        ("saturating", c_uint32),
        ("scope", c_uint32),
    )


def _describe(library: Any, instance: c_void_p, handle: c_void_p) -> VulkanDevice:
    size_control = _Chained(s_type=1000225000)
    identity = _chain(_Chained(s_type=1000071004), size_control)
    subgroup = _chain(_Chained(s_type=1000094000), identity)
    properties = _chain(_Properties(s_type=1000059001), subgroup)
    library.vkGetPhysicalDeviceProperties2(handle, byref(properties))
    usual, _, operations, _ = subgroup.fields[:4]
    # Zeros from a driver without VK_EXT_subgroup_size_control.
    smallest, largest = (value or usual for value in size_control.fields[:2])
    limits = properties.limits
    matrices = tuple(dict.fromkeys(_matrices(library, instance, handle)))
    found = [*_features(library, handle), *_operations(operations)]
    return VulkanDevice(
        name=properties.name.decode(errors="replace"),
        uuid=bytes(identity.fields)[:16].hex(),
        vendor=properties.vendor,
        api=(properties.api_version >> 22 & 127, properties.api_version >> 12 & 1023),
        subgroup_sizes=(usual, smallest, largest),
        capabilities=tuple(found + ["CooperativeMatrixKHR"] * bool(matrices)),
        cooperative_matrices=matrices,
        shared_memory=limits.shared_memory,
        workgroup_threads=limits.workgroup_threads,
        workgroup_size=tuple(limits.workgroup_size),
        workgroup_count=tuple(limits.workgroup_count),
        storage_buffer=limits.storage_buffer,
        memory=_memory(library, handle),
    )


def _chain(structure: Any, following: Structure) -> Any:
    structure.next = ctypes.cast(ctypes.pointer(following), c_void_p)
    return structure


def _features(library: Any, handle: c_void_p) -> Iterator[str]:
    dot = _Chained(s_type=1000280000)
    narrow = _chain(_Chained(s_type=1000082000), dot)
    storage8 = _chain(_Chained(s_type=1000177000), narrow)
    storage16 = _chain(_Chained(s_type=1000083000), storage8)
    features = _chain(_Chained(s_type=1000059000), storage16)
    library.vkGetPhysicalDeviceFeatures2(handle, byref(features))
    named = {
        "Float64": features.fields[39],
        "Int64": features.fields[40],
        "Int16": features.fields[41],
        "Float16": narrow.fields[0],
        "Int8": narrow.fields[1],
        "StorageBuffer16BitAccess": storage16.fields[0],
        "StorageBuffer8BitAccess": storage8.fields[0],
        "DotProduct": dot.fields[0],
    }
    return (name for name, there in named.items() if there)


def _operations(bits: int) -> list[str]:
    named = {"GroupNonUniform": 1, "GroupNonUniformArithmetic": 4, "GroupNonUniformShuffle": 16}
    return [name for name, bit in named.items() if bits & bit]


def _memory(library: Any, handle: c_void_p) -> int:
    budget = _Budget(s_type=1000237000)
    memory = _chain(_Memory(s_type=1000059006), budget)
    library.vkGetPhysicalDeviceMemoryProperties2(handle, byref(memory))
    return max(
        (
            min(memory.heaps[2 * i], budget.budget[i] or memory.heaps[2 * i])
            for i in range(memory.heap_count)
            if memory.heaps[2 * i + 1] & 1
        ),
        default=0,
    )


def _matrices(library: Any, instance: c_void_p, handle: c_void_p) -> Iterator[str]:
    resolve = library.vkGetInstanceProcAddr
    resolve.restype = c_void_p
    address = resolve(instance, b"vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR")
    # The loader knows the call also where the device does not.
    if not address or b"VK_KHR_cooperative_matrix" not in _extensions(library, handle):
        return
    prototype = ctypes.CFUNCTYPE(ctypes.c_int32, c_void_p, POINTER(c_uint32), c_void_p)
    call, count = prototype(address), c_uint32()
    call(handle, byref(count), None)
    found = (_Matrix * count.value)(*(_Matrix(s_type=1000506001) for _ in range(count.value)))
    call(handle, byref(count), found)
    types = {0: "f16", 1: "f32", 2: "f64", 3: "i8", 5: "i32", 7: "u8", 1000141000: "bf16"}
    for one in found:
        if one.scope == 3 and one.c == one.result and not one.saturating:
            a, b, c = (types.get(kind, "?") for kind in (one.a, one.b, one.c))
            yield f"{one.m}x{one.n}x{one.k}:{a},{b},{c}"


def _extensions(library: Any, handle: c_void_p) -> set[bytes]:
    class Extension(Structure):
        _fields_ = (("name", c_char * 256), ("version", c_uint32))

    count = c_uint32()
    library.vkEnumerateDeviceExtensionProperties(handle, None, byref(count), None)
    found = (Extension * count.value)()
    library.vkEnumerateDeviceExtensionProperties(handle, None, byref(count), found)
    return {one.name for one in found}


def _main() -> None:
    try:
        print(json.dumps([dataclasses.asdict(device) for device in devices()]))
    except VulkanError as error:
        print(json.dumps(str(error)))


if __name__ == "__main__":
    _main()
