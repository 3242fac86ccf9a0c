"""The stages from exported IR to a program, as a table.

Dumping, stopping after a stage and starting from a dumped one all fall out of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from iree.compiler import ir

from edgec.compiler.iree import IreeError, iree_compile_file
from edgec.compiler.targets.target import Target
from edgec.compiler.transients import transient_bytes
from edgec.compiler.ukernels import build_objects
from edgec.errors import CompileError, InputError
from edgec.options import STAGE_NAMES, CompileOptions
from edgec.passes import Pipeline, parse_module

__all__ = [
    "STAGES",
    "call_memory",
    "compile_flags",
    "prompt_sizes",
    "shape_flags",
    "torch_pipeline",
]

# Higher levels turn on data tiling, which fails on attention's dynamic contractions.
_FLAGS = ("--iree-opt-level=O2", "--iree-opt-data-tiling=false")


def _lowered(source: Path, output: Path, target: Target, options: CompileOptions) -> None:
    _passes(source, output, torch_pipeline(target, options), target.device)


def _input(source: Path, output: Path, target: Target, options: CompileOptions) -> None:
    converted = output.with_suffix(".raw.mlir")
    _iree(source, converted, (*target.flags, "--compile-to=input"), output.with_suffix(".log"))
    _passes(converted, output, target.input_pipeline)
    converted.unlink()


def _stream(source: Path, output: Path, target: Target, options: CompileOptions) -> None:
    scheduled = output.with_suffix(".raw.mlir")
    flags = (*compile_flags(target, options), "--compile-to=stream")
    _iree(source, scheduled, flags, output.with_suffix(".log"))
    _passes(scheduled, output, target.stream_pipeline)
    scheduled.unlink()


def _vmfb(source: Path, output: Path, target: Target, options: CompileOptions) -> None:
    flags = (*compile_flags(target, options), "--compile-from=stream")
    log = output.with_suffix(".log")
    if not target.kernels:
        _iree(source, output, flags, log)
        return
    with tempfile.TemporaryDirectory(prefix="objects-", dir=output.parent) as objects:
        build_objects(source.read_text("utf-8"), target.kernels, Path(objects))
        search = f"--iree-hal-executable-object-search-path={objects}"
        _iree(source, output, (*flags, search), log)


STAGES: dict[str, Callable[[Path, Path, Target, CompileOptions], None]] = dict(
    zip(STAGE_NAMES[1:], (_lowered, _input, _stream, _vmfb), strict=True)
)
"""Name to function, in order; each takes the file of the one before.

Temporary files are beside the output: in a build's workspace, which goes as a whole.
"""


def call_memory(source: Path, target: Target, options: CompileOptions) -> int:
    """Bytes that a call of a GPU's program allocates at most; 0 on the host, where it is no limit.

    Args:
        source: The result of the stage `stream`.
    """
    if target.on_host:
        return 0
    assert options.chunk_size is not None and options.ctx_size is not None
    try:
        return transient_bytes(source.read_text("utf-8"), options.chunk_size, options.ctx_size)
    except ValueError as error:
        raise CompileError(f"{target.name}: the memory of a call is not known: {error}") from error


def shape_flags(options: CompileOptions) -> tuple[str, ...]:
    """Flags for the chosen treatment of dynamic shapes, on top of every target's."""
    if options.dynamic_shapes == "op":
        padding = "builtin.module(iree-preprocessing-pad-to-intrinsics)"
        return (*_FLAGS, f"--iree-preprocessing-pass-pipeline={padding}")
    return _FLAGS


def compile_flags(target: Target, options: CompileOptions) -> tuple[str, ...]:
    """For iree-compile from the stage `input` on."""
    return (*target.flags, *shape_flags(options), *options.extra_compile_args)


def torch_pipeline(target: Target, options: CompileOptions) -> Pipeline:
    """The target's passes on the exported module, with its blocks and prompt sizes."""
    pipeline = target.torch_pipeline
    if target.block_rows > 1:
        pipeline = pipeline.with_options("lower-linear", block=target.block_rows)
    sizes = prompt_sizes(target, options)
    if not sizes:
        return pipeline
    # Before every other pass but the first, so that they see the static shapes.
    return pipeline.after("symbolic-bounds", "static-prefill", sizes="/".join(map(str, sizes)))


def prompt_sizes(target: Target, options: CompileOptions) -> tuple[int, ...]:
    """The lengths of the prefill programs of a target that needs fixed ones: doubling each time.

    Empty for one `prefill` of any length. Sizes that the target states are taken as they are.
    """
    if isinstance(target.static_prompts, tuple):
        return target.static_prompts
    assert options.chunk_size is not None
    multiple, chunk = options.prompt_multiple, options.chunk_size
    if not target.static_prompts or options.dynamic_shapes != "input" or chunk == multiple:
        return ()
    sizes = [multiple]
    while sizes[-1] * 2 <= chunk:
        sizes.append(sizes[-1] * 2)
    return tuple(sizes)


def _passes(source: Path, output: Path, pipeline: Pipeline, device: str = "") -> None:
    with ir.Context():
        try:
            module = parse_module(source.read_text("utf-8"))
        except ValueError as error:
            # What the stage before wrote is right: this is a file given to start from.
            raise InputError(f"{source}: not IR of this stage: {error}", "dump it again") from None
        try:
            pipeline.run(module)
        except ValueError as error:
            raise CompileError(f"{source.name}: {error}") from error
        if device:
            module.operation.attributes["hal.device.targets"] = ir.Attribute.parse(f"[{device}]")
        output.write_text(str(module), "utf-8")


def _iree(source: Path, output: Path, flags: tuple[str, ...], log: Path) -> None:
    try:
        iree_compile_file(source, output, flags)
    except IreeError as error:
        log.write_text(error.log, "utf-8")
        raise CompileError(
            f"iree-compile failed on {source.name}: {error.summary}",
            f"with --dump-ir DIR, the whole message is in DIR/{log.name}",
        ) from error
