"""Vulkan GPUs: one that IREE's table knows (`vulkan:rdna3`), or the device found here (`vulkan`).

Without a name the first device of this machine is taken; one that the table lacks is described
from what its driver reports. With no device, programs are for the portable baseline.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from edgec.compiler.iree import IreeError, iree_compile
from edgec.compiler.targets import spirv
from edgec.compiler.targets.target import Target
from edgec.compiler.targets.vulkan_device import architecture_of, describe
from edgec.errors import InputError
from edgec.passes import INPUT_PIPELINE, TORCH_PIPELINE
from edgec.vulkan import VulkanError, probe

__all__ = ["BASELINE", "requirements", "target"]

BASELINE = "vp_android_baseline_2022"
"""32-bit arithmetic and 16 KB of shared memory, no subgroup operations: runs on any driver."""

KNOWN = "llvmpipe, ampere, ada, turing, rdna2, rdna3, rdna4, valhall1 to valhall4, adreno, baseline"

# No Vulkan driver gives a workgroup more. IREE's table has what CUDA can give on NVIDIA's GPUs,
# whose Vulkan drivers give 48 KB.
_MOST_SHARED_MEMORY = 65536
_NVIDIA_SHARED_MEMORY = 49152


def target(variant: str) -> Target:
    """Describes a Vulkan device.

    Args:
        variant: A name of IREE's (an architecture, or a product such as rtx4090), `baseline`,
            or empty for the device at hand.

    Raises:
        InputError: IREE does not know the name.
    """
    if variant:
        return _known(BASELINE if variant == "baseline" else variant)
    try:
        found = probe()
    except VulkanError:
        found = []
    if not found:
        return _known(BASELINE)
    if name := architecture_of(found[0]):
        return _known(name, found[0].subgroup_sizes[0])
    return _target(*describe(found[0]))


def requirements(program: Path) -> dict[str, str]:
    """The needs that a compiled program's shaders declare, read from the program itself."""
    declared = spirv.capabilities(program.read_bytes())
    return {"capabilities": ",".join(sorted(declared))}


def _known(name: str, subgroup: int | None = None) -> Target:
    """A target of IREE's table, with the subgroup size that Vulkan drivers use.

    The table prefers RDNA's 32 of its two sizes, but drivers run a shader that does not ask in 64,
    and IREE's reductions do not ask.
    """
    architecture, attribute = _resolve(name)
    sizes = [int(size) for size in _list("subgroup_size_choices", attribute)]
    size = subgroup or max(sizes)
    replaced = f"subgroup_size_choices = [{size}]"
    attribute = re.sub(r"subgroup_size_choices = \[[\d, ]+\]", replaced, attribute)
    return _target(architecture if size in sizes else f"{architecture}-{size}", attribute)


@cache
def _resolve(name: str) -> tuple[str, str]:
    """The architecture's own name and its `#iree_gpu.target`, from IREE's table."""
    flags = ("--iree-hal-target-device=vulkan", f"--iree-vulkan-target={name}")
    try:
        text = iree_compile(
            "util.func public @f() { util.return }", flags, to="global-optimization"
        )
    except IreeError:
        raise InputError(
            f"target 'vulkan:{name}': unknown architecture",
            f"known are {KNOWN}; vulkan alone takes the device at hand",
        ) from None
    found = re.search(r"#iree_gpu\.target<.*?>>(?=\})", text)
    if found is None:
        raise InputError(f"target 'vulkan:{name}': the compiler does not describe it")
    attribute = found[0]
    if _number("max_workgroup_memory_bytes", attribute) > _MOST_SHARED_MEMORY:
        shared = f"max_workgroup_memory_bytes = {_NVIDIA_SHARED_MEMORY}"
        attribute = re.sub(r"max_workgroup_memory_bytes = \d+", shared, attribute)
    return name.lower(), attribute


def _target(architecture: str, attribute: str) -> Target:
    shared = _number("max_workgroup_memory_bytes", attribute)
    device = (
        '#hal.device.target<"vulkan", [#hal.executable.target<"vulkan-spirv", "vulkan-spirv-fb", '
        f"{{iree_codegen.target_info = {attribute}}}>]> : !hal.device"
    )
    # Its reductions of a whole block leave vectors of 8, which SPIR-V has not; IREE's own do well.
    pipeline = TORCH_PIPELINE.without("lower-layer-norm")
    if "mma = [" in attribute:
        # Cooperative matrices multiply 16-bit numbers, see the pass.
        pipeline = pipeline.with_options("lower-linear", compute="weights")
    return Target(
        "vulkan",
        architecture,
        "vulkan",
        (),
        {
            "subgroup_size": str(_number("subgroup_size_choices", attribute)),
            "shared_memory": str(shared),
            "workgroup_threads": str(_number("max_thread_count_per_workgroup", attribute)),
        },
        torch_pipeline=pipeline,
        # Half of what there is: IREE needs some of it for the reduction itself.
        input_pipeline=INPUT_PIPELINE.then("lower-argmax", form="rows").then(
            "bound-reductions", bytes=shared // 2
        ),
        device=device,
        static_prompts=True,
    )


def _number(field: str, attribute: str) -> int:
    return int(_list(field, attribute)[0])


def _list(field: str, attribute: str) -> list[str]:
    match = re.search(rf"\b{field} = \[?([\d, ]+)", attribute)
    assert match is not None, attribute
    return match[1].split(", ")
