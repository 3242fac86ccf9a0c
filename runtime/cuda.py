"""Whether the NVIDIA GPU at hand can run a CUDA program."""

from __future__ import annotations

from edgec import cuda
from edgec.errors import DeviceError
from edgec.manifest import Program
from edgec.runtime.memory import check_memory

__all__ = ["check_cuda"]


def check_cuda(program: Program, needed: int) -> None:
    """Refuses a CUDA program that the first GPU cannot run.

    Args:
        program: Of its requirements, `compute_capability` (`8.6`) is looked at: PTX runs on that
            and on anything newer.
        needed: Bytes that weights, state and a call take.

    Raises:
        DeviceError: no driver or GPU, an older one, or too little memory.
    """
    try:
        device = cuda.device()
    except cuda.CudaError as error:
        raise DeviceError(
            f"device 'cuda': {error}", "install NVIDIA's driver, or use --device cpu or vulkan"
        ) from None
    required = program.requirements.get("compute_capability", "0.0")
    major, _, minor = required.partition(".")
    if (int(major), int(minor)) > device.compute_capability:
        have = ".".join(map(str, device.compute_capability))
        raise DeviceError(
            f"the artifact's program for {program.target} needs compute capability {required}: "
            f"{device.name} has {have}",
            f"compile for sm_{have.replace('.', '')} or an older one",
        )
    check_memory(device.name, needed, device.memory)
