"""The description of a target: all that the compiler's driver knows of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgec.passes import INPUT_PIPELINE, STREAM_PIPELINE, TORCH_PIPELINE, Pipeline

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """Everything that compiling for one kind of device depends on.

    Attributes:
        name: The kind, which is also the `--device` at run time: cpu, vulkan, cuda.
        architecture: The variant, resolved: two machines with the same one share programs.
        driver: IREE's runtime driver.
        flags: For iree-compile.
        requirements: What a device must have to run the program; the runtime checks it.
        torch_pipeline: edgec's passes on the exported module.
        input_pipeline: edgec's passes after IREE's input conversion.
        stream_pipeline: edgec's passes once IREE has formed its dispatches.
        device: The text of `hal.device.targets`' one element, where flags cannot describe it.
        static_prompts: Whether prefill is compiled for fixed prompt sizes: True for those that
            double from the prompt multiple to the chunk, or the sizes themselves.
        block_rows: Rows that a linear layer's contraction takes together, where the prompt multiple
            allows; 1 where code generation finds the blocks by itself.
        kernels: Feature level of the kernels that the pipelines dispatch, or empty.
        on_host: Whether programs run on the host's processor, in its memory: a call's memory is
            then no limit of the device, and ceilings are measured in C.
    """

    name: str
    architecture: str
    driver: str
    flags: tuple[str, ...]
    requirements: dict[str, str] = field(default_factory=dict)
    torch_pipeline: Pipeline = TORCH_PIPELINE
    input_pipeline: Pipeline = INPUT_PIPELINE
    stream_pipeline: Pipeline = STREAM_PIPELINE
    device: str = ""
    static_prompts: bool | tuple[int, ...] = False
    block_rows: int = 1
    kernels: str = ""
    on_host: bool = False
