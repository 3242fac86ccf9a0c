"""From a model's name to an artifact: the order of the steps, and nothing about any target."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iree.compiler import ir

from edgec.artifact import Artifact, sha256_of
from edgec.cache import default_cache_dir
from edgec.compiler import artifact as writing
from edgec.compiler.digest import digest, versions
from edgec.compiler.export import PARAMETER_SCOPE, Interface, export, interface
from edgec.compiler.opening import check_files
from edgec.compiler.options import CompileOptions
from edgec.compiler.parameters import ArchiveEntry, write_archive
from edgec.compiler.progress import Progress, Silent
from edgec.compiler.quantization import StoredWeights, describe_quantization, weight_formats
from edgec.compiler.stages import (
    EXPORTED,
    STAGES,
    call_memory,
    file_of,
    prompt_sizes,
    torch_pipeline,
)
from edgec.compiler.targets import Target, parse_targets, requirements
from edgec.compiler.workspace import locked, remove_abandoned, workspace, writable
from edgec.errors import InputError
from edgec.manifest import (
    SCHEMA_VERSION,
    Manifest,
    Memory,
    ModelInfo,
    ParameterFile,
    Program,
)
from edgec.models.active import usage
from edgec.models.load import LoadedModel, load
from edgec.models.sources.resolve import ModelSource, resolve
from edgec.models.weights.check import CheckedWeights, check_weights
from edgec.models.weights.source import stored_formats

__all__ = ["compile", "default_cache_dir"]

WEIGHTS = "weights.irpa"


@dataclass(frozen=True)
class _Build:
    """What every step needs to know."""

    source: ModelSource
    model: LoadedModel
    weights: CheckedWeights
    interface: Interface
    options: CompileOptions
    targets: tuple[Target, ...]
    digest: str
    max_context: int
    dump: Path | None
    progress: Progress
    call_memory: dict[str, int] = field(default_factory=dict)
    """Bytes that a call allocates, by target; filled as programs are compiled."""


def compile(
    model: str,
    *,
    target: str = "cpu",
    output: str | Path | None = None,
    dtype: str = "f32",
    kv_dtype: str | None = None,
    ctx_size: int | None = None,
    prompt_multiple: int = 32,
    chunk_size: int | None = None,
    batch: tuple[int, ...] = (1,),
    prompt_sizes: tuple[int, ...] = (),
    block_prompts: bool | None = None,
    linear_kernels: bool = True,
    dynamic_shapes: str = "input",
    quantize: str = "none",
    group_size: int | str | None = None,
    embedding_quantize: str | None = None,
    asymmetric: bool = False,
    revision: str | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    use_cache: bool = True,
    force: bool = False,
    dump_ir: str | Path | None = None,
    stop_after: str | None = None,
    start_from: str | Path | None = None,
    extra_compile_args: tuple[str, ...] = (),
    expert_stats: bool = False,
    layers: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Artifact | None:
    """Compiles a model for one or more targets.

    Args:
        model: Hub id, local folder, GGUF file, `bundled:NAME` or `preset:NAME`.
        target: `cpu[:<cpu>|:<triple>]`, `vulkan[:<arch>]`, `cuda[:<sm>]`; several with commas.
        output: The artifact's folder; without it, one in the cache, named by its digest.
        dtype, kv_dtype, ctx_size, prompt_multiple, chunk_size, batch, prompt_sizes,
            block_prompts, linear_kernels, dynamic_shapes, quantize, expert_stats, layers,
            seed, extra_compile_args: See `CompileOptions`.
        group_size: 32, 64, 128 or `channel`; None is 32. Only with `quantize`.
        embedding_quantize: Format of embedding tables and `lm_head`; None: as `quantize`.
        asymmetric: A zero point beside each scale; only with `quantize="int4"`.
        revision, offline, trust_remote_code, token: For the hub.
        cache_dir: Of builds without an output; default `default_cache_dir()`.
        use_cache: Whether an equal build that is already there will do.
        force: Replace whatever stands at `output`.
        dump_ir: Folder that receives the IR after every stage.
        stop_after: A stage (torch, lowered, input, stream, vmfb) after which to stop; needs
            `dump_ir`.
        start_from: A dumped file (`torch.mlir`, `cpu.lowered.mlir`, `cpu.input.mlir`) to use
            in place of the stages up to it.
        progress: Told about the stages.

    Returns:
        The artifact, or None after `stop_after`.

    Raises:
        InputError: something the user can mend; nothing was written.
        CompileError: a stage failed; nothing was written but the dump.
    """
    progress = progress or Silent()
    if group_size is not None and quantize == "none" and embedding_quantize in (None, "none"):
        raise InputError(f"group-size {group_size}: nothing is quantised", "add --quantize int4")
    options = CompileOptions(
        dtype=dtype,
        kv_dtype=kv_dtype,
        ctx_size=ctx_size,
        prompt_multiple=prompt_multiple,
        chunk_size=chunk_size,
        batch=tuple(batch),
        prompt_sizes=tuple(prompt_sizes),
        block_prompts=block_prompts,
        linear_kernels=linear_kernels,
        dynamic_shapes=dynamic_shapes,
        quantize=quantize,
        group_size=str(group_size or 32),
        embedding_quantize=embedding_quantize,
        asymmetric=asymmetric,
        expert_stats=expert_stats,
        layers=layers,
        seed=seed,
        extra_compile_args=tuple(extra_compile_args),
    )
    targets = parse_targets(target)
    dump = Path(dump_ir) if dump_ir is not None else None
    start = _check_stages(targets, dump, stop_after, Path(start_from) if start_from else None)
    if dump is not None:
        with writable(dump, "dump-ir", "choose another folder"):
            dump.mkdir(parents=True, exist_ok=True)
    with progress.stage("resolve", model):
        source = resolve(
            model,
            revision=revision,
            offline=offline,
            trust_remote_code=trust_remote_code,
            token=token,
            progress=lambda _, done, total: progress.update(done, total, "B"),
            seed=seed,
            layers=layers,
        )
        max_context = _max_context(source)
        integers = bool(stored_formats(source.weights))
        options = options.for_model(max_context, source.id, quantized=integers)
        key = digest(
            {
                "model": source.fingerprint(),
                "options": options.to_dict(),
                "targets": [vars(t) for t in targets],
                "start_from": sha256_of(start[1]) if start else None,
            }
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.id).strip("-")
    cache = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    destination = Path(output) if output is not None else cache / f"{name}-{key[:16]}.edgec"
    with _turn(cache, key, output is None):
        remove_abandoned(destination.parent)
        there = False
        if use_cache and not force:
            try:
                found = writing.existing(destination, key, cached=output is None)
                there = found is not None
            except writing.DamagedBuild as damage:
                progress.note(f"{damage}: it is built again")
                found, there = None, True
            if found is not None and dump is None:
                return found
        replace = force or output is None or there
        if stop_after is None and output is not None:
            writing.check_free(destination, replace)
        with workspace(destination) as work:
            result = work / "artifact"
            result.mkdir()
            _write_files(source, result)
            check_files(source.id, result)
            with progress.stage("load", source.config.model_type):
                loaded = load(
                    source.config,
                    dtype,
                    options.weight_format,
                    embeddings=options.embedding_format,
                    stored=stored_formats(source.weights),
                    weights=source.weights,
                    expert_stats=expert_stats,
                    trust_remote_code=trust_remote_code,
                )
                weights = check_weights(loaded.expected, source.weights)
                if layers is None:
                    weights.warn_of_unused()
                for name in loaded.buffers.keys() & weights.names.keys():
                    # A persistent one (a router's correction bias) is no constant.
                    like = loaded.buffers[name].dtype
                    loaded.buffers[name] = weights.read(name).to(like)
            spec = interface(loaded, options, loaded.discovery.vocab_size)
            build = _Build(
                source, loaded, weights, spec, options, targets, key, max_context, dump, progress
            )
            _check_space(build, destination)
            if not _compile_programs(build, work, result, start, stop_after):
                return None
            _write_weights(build, result)
            manifest = _manifest(build, result)
            with progress.stage("write", str(destination)):
                return writing.publish(result, destination, manifest, replace=replace)


def _turn(cache: Path, key: str, cached: bool) -> Any:
    """Equal builds into one cache wait for each other; the second finds the first's result."""
    from contextlib import nullcontext

    return locked(cache / "locks" / key) if cached else nullcontext()


def _check_stages(
    targets: tuple[Target, ...], dump: Path | None, stop_after: str | None, start: Path | None
) -> tuple[str, Path] | None:
    """Checks the stage options; returns the stage and the file to start from."""
    names = [EXPORTED, *STAGES]
    if stop_after is not None and stop_after not in names:
        raise InputError(f"stop-after '{stop_after}': must be one of {', '.join(names)}")
    if stop_after is not None and dump is None:
        raise InputError("stop-after: without --dump-ir nothing would be kept", "add --dump-ir DIR")
    if start is None:
        return None
    if not start.is_file():
        raise InputError(f"start-from {start}: no such file", "give a file from --dump-ir")
    if len(targets) > 1 and start.name != file_of(EXPORTED, targets[0]):
        raise InputError(f"start-from {start}: belongs to one target", "name one --target")
    for stage in names[:-1]:
        if start.name == file_of(stage, targets[0]):
            return stage, start
    known = ", ".join(file_of(stage, targets[0]) for stage in names[:-1])
    raise InputError(f"start-from {start}: not a dumped stage", f"must be named {known}")


_NO_LIMIT = 1 << 20
"""Tokens, for a model whose configuration states no limit: no table ends and none was trained."""


def _max_context(source: ModelSource) -> int:
    """The longest sequence that the configuration states, or `_NO_LIMIT`."""
    config = source.config.get_text_config()
    named = config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    limits = (
        value
        for name, value in config.to_dict().items()
        if name == named or name in _LIMITS
        if isinstance(value, int) and value > 0
    )
    return min(limits, default=_NO_LIMIT)


_LIMITS = (
    "context_length",
    "max_seq_len",
    "max_sequence_length",
    "max_target_positions",
    "model_max_length",
    "n_ctx",
    "n_positions",
    "seq_length",
)


def _entries(model: LoadedModel) -> dict[str, ArchiveEntry]:
    return {n: ArchiveEntry(tuple(p.shape), p.dtype) for n, p in model.parameters.items()}


def _check_space(build: _Build, destination: Path) -> None:
    needed = sum(entry.bytes for entry in _entries(build.model).values()) + (64 << 20)
    free = shutil.disk_usage(destination.parent).free
    if free < needed:
        raise InputError(
            f"output {destination}: needs {needed >> 20} MB, the disk has {free >> 20} MB free",
            "free some space or choose another place with -o",
        )


def _compile_programs(
    build: _Build,
    work: Path,
    result: Path,
    start: tuple[str, Path] | None,
    stop_after: str | None,
) -> bool:
    """Runs the stages for each target; False when told to stop before the last."""
    exported = work / "torch.mlir"
    if start is not None and start[0] == EXPORTED:
        shutil.copyfile(start[1], exported)
    elif start is None:
        layers = f"{_layers(build.source)} layers"
        with build.progress.stage("export", layers), ir.Context() as context:
            module = export(build.model, build.options, context)
            exported.write_text(str(module), "utf-8")
    if exported.exists():
        _dump(build, exported)
    if stop_after == EXPORTED:
        return False
    for target in build.targets:
        current, skipping = exported, start is not None and start[0] != EXPORTED
        for stage, run in STAGES.items():
            if skipping:
                assert start is not None
                if start[0] == stage:
                    current, skipping = start[1], False
                continue
            produced = work / file_of(stage, target)
            with build.progress.stage(stage, f"{target.name} {target.architecture}"):
                try:
                    run(current, produced, target, build.options)
                    if stage == "vmfb":
                        memory = call_memory(current, target, build.options)
                        build.call_memory[target.name] = memory
                finally:
                    _dump(build, produced, produced.with_suffix(".log"))
            current = produced
            if stage == stop_after:
                break
        else:
            current.rename(result / current.name)
    return stop_after is None


def _dump(build: _Build, *files: Path) -> None:
    if build.dump is None:
        return
    for file in files:
        if file.exists():
            shutil.copyfile(file, build.dump / file.name)


def _write_weights(build: _Build, result: Path) -> None:
    entries = _entries(build.model)
    total = sum(entry.bytes for entry in entries.values())
    kind = " ".join(weight_formats(build.model)) or build.options.dtype
    with build.progress.stage("weights", f"{total / 1e6:.0f} MB {kind}"):
        write_archive(
            result / WEIGHTS,
            entries,
            StoredWeights(build.model, build.weights).read,
            lambda done: build.progress.update(done, total, "B"),
        )


def _write_files(source: ModelSource, result: Path) -> None:
    """The model's small files."""
    # What the model is, for those who count its operations; the runtime does not read it.
    config = source.config.to_json_string(use_diff=False)
    (result / "config.json").write_text(config, "utf-8")
    for name, content in source.files.items():
        if isinstance(content, bytes):
            (result / name).write_bytes(content)
        else:
            shutil.copyfile(content, result / name)


def _manifest(build: _Build, result: Path) -> Manifest:
    source, model, options = build.source, build.model, build.options
    assert options.ctx_size is not None
    entries = _entries(model)
    weights = sum(entry.bytes for entry in entries.values())
    count = model.parameter_count
    used = usage(model.module, model.parameters, model.discovery)
    idle = sum((1 - used.active[n]) * model.weight_count(n) for n in model.parameters)
    read = sum(used.read[n] * entry.bytes for n, entry in entries.items())
    width = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1}
    state = 0
    for buffer in build.interface.state:
        state += math.prod(buffer.shape) * width[buffer.dtype]
    return Manifest(
        schema_version=SCHEMA_VERSION,
        digest=build.digest,
        versions=versions(),
        model=ModelInfo(
            id=source.id,
            revision=source.revision,
            architecture=(source.config.architectures or [type(model.module).__name__])[0],
            model_type=source.config.model_type,
            vocab_size=model.discovery.vocab_size,
            context=options.ctx_size,
            max_context=build.max_context,
            layers=_layers(source),
            parameters=count,
            active_parameters=int(count - idle),
            experts=used.experts,
            experts_per_token=used.experts_per_token,
            attention="own" if model.discovery.native_attention else "operator",
            rope_switches=build.interface.rope_switches,
        ),
        options=options.to_dict(),
        dtype=options.dtype,
        quantization=describe_quantization(model, build.targets),
        prompt=build.interface.prompt,
        entry_points=build.interface.entry_points,
        state=build.interface.state,
        programs={
            t.name: Program(
                target=f"{t.name}:{t.architecture}",
                driver=t.driver,
                file=file_of("vmfb", t),
                pipelines={
                    "lowered": str(torch_pipeline(t, options)),
                    "input": str(t.input_pipeline),
                    "stream": str(t.stream_pipeline),
                },
                requirements=requirements(t, result / file_of("vmfb", t)),
                compile_flags=t.flags,
                prompt_sizes=prompt_sizes(t, options),
                call_memory=build.call_memory.get(t.name, 0),
            )
            for t in build.targets
        },
        parameters=ParameterFile(WEIGHTS, PARAMETER_SCOPE, len(entries), weights),
        memory=Memory(weights, state, weights_per_token=int(read)),
        files=writing.file_records(result),
        batch_sizes=options.batch,
    )


def _layers(source: ModelSource) -> int:
    return int(source.config.get_text_config().num_hidden_layers)
