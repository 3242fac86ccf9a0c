"""From a request to an artifact: the order of the steps, and nothing about any target."""

from __future__ import annotations

import math
import re
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from iree.compiler import ir

from edgec.artifact import Artifact, sha256_of
from edgec.cache import default_cache_dir
from edgec.compiler import artifact as writing
from edgec.compiler.digest import digest, versions
from edgec.compiler.dumps import EXPORTED, file_of, starting_point
from edgec.compiler.export import PARAMETER_SCOPE, Interface, export, interface
from edgec.compiler.opening import check_files
from edgec.compiler.parameters import ArchiveEntry, write_archive
from edgec.compiler.quantization import (
    StoredWeights,
    describe_quantization,
    weight_format,
    weight_formats,
)
from edgec.compiler.stages import STAGES, call_memory, prompt_sizes, torch_pipeline
from edgec.compiler.targets import requirements
from edgec.compiler.targets.target import Target
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
from edgec.options import CompileRequest
from edgec.progress import Progress, Silent

__all__ = ["build", "default_cache_dir"]

WEIGHTS = "weights.irpa"


@dataclass(frozen=True)
class _Build:
    """A compile whose model is found: what every step needs to know."""

    request: CompileRequest
    targets: tuple[Target, ...]
    source: ModelSource
    max_context: int
    start: tuple[str, Path] | None
    digest: str
    dump: Path | None
    progress: Progress


@dataclass(frozen=True)
class _Loaded:
    """The model, its checked weights and the interface of its program."""

    model: LoadedModel
    weights: CheckedWeights
    interface: Interface

    @property
    def entries(self) -> dict[str, ArchiveEntry]:
        """The archive's entries by name."""
        parameters = self.model.parameters
        return {n: ArchiveEntry(tuple(p.shape), p.dtype) for n, p in parameters.items()}

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries.values())


def build(request: CompileRequest, targets: tuple[Target, ...]) -> Artifact | None:
    """Compiles a model, or finds an equal build; see `edgec.compile`.

    Args:
        request: What to do.
        targets: Those that it names, described.
    """
    build = _resolve(request, targets)
    cached = request.output is None
    cache = Path(request.cache_dir) if request.cache_dir is not None else default_cache_dir()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", build.source.id).strip("-")
    default = cache / f"{name}-{build.digest[:16]}.edgec"
    destination = default if request.output is None else Path(request.output)
    # Equal builds into one cache wait for each other; the second finds the first's result.
    with locked(cache / "locks" / build.digest) if cached else nullcontext():
        remove_abandoned(destination.parent)
        found, damaged = _existing(build, destination)
        if found is not None and build.dump is None:
            return found
        replace = request.force or cached or damaged or found is not None
        if request.stop_after is None and not cached:
            writing.check_free(destination, replace)
        with workspace(destination) as work:
            return _make(build, work, destination, replace)


def _resolve(request: CompileRequest, targets: tuple[Target, ...]) -> _Build:
    """Finds the model, and fills in the options that depend on it."""
    progress = request.progress or Silent()
    start = starting_point(request.start_from, [target.name for target in targets])
    dump = Path(request.dump_ir) if request.dump_ir is not None else None
    if dump is not None:
        with writable(dump, "dump-ir", "choose another folder"):
            dump.mkdir(parents=True, exist_ok=True)
    with progress.stage("resolve", request.model):
        source = resolve(
            request.model,
            revision=request.revision,
            offline=request.offline,
            trust_remote_code=request.trust_remote_code,
            token=request.token,
            progress=lambda _, done, total: progress.update(done, total, "B"),
            seed=request.seed,
            layers=request.layers,
        )
        max_context = _max_context(source)
        integers = bool(stored_formats(source.weights))
        request = request.for_model(max_context, source.id, quantized=integers)
        key = digest(
            {
                "model": source.fingerprint(),
                "options": request.to_dict(),
                "targets": [vars(t) for t in targets],
                "start_from": sha256_of(start[1]) if start else None,
            }
        )
    return _Build(request, targets, source, max_context, start, key, dump, progress)


def _existing(build: _Build, destination: Path) -> tuple[Artifact | None, bool]:
    """An equal build at the destination, if one is there and wanted; whether one is damaged."""
    request = build.request
    if not request.use_cache or request.force:
        return None, False
    try:
        cached = request.output is None
        return writing.existing(destination, build.digest, cached=cached), False
    except writing.DamagedBuild as damage:
        build.progress.note(f"{damage}: it is built again")
        return None, True


def _make(build: _Build, work: Path, destination: Path, replace: bool) -> Artifact | None:
    """Makes the artifact in a workspace and moves it to its destination."""
    result = work / "artifact"
    result.mkdir()
    _write_files(build.source, result)
    check_files(build.source.id, result)
    loaded = _load(build)
    _check_space(loaded, destination)
    memory = _compile_programs(build, loaded, work, result)
    if memory is None:
        return None
    _write_weights(build, loaded, result)
    manifest = _manifest(build, loaded, memory, result)
    with build.progress.stage("write", str(destination)):
        return writing.publish(result, destination, manifest, replace=replace)


def _load(build: _Build) -> _Loaded:
    """The model without its weights, those compared with what it expects."""
    request, source = build.request, build.source
    with build.progress.stage("load", source.config.model_type):
        model = load(
            source.config,
            request.dtype,
            weight_format(request.quantize, request),
            embeddings=weight_format(request.embedding_quantize or request.quantize, request),
            stored=stored_formats(source.weights),
            weights=source.weights,
            expert_stats=request.expert_stats,
            trust_remote_code=request.trust_remote_code,
        )
        weights = check_weights(model.expected, source.weights)
        if request.layers is None:
            weights.warn_of_unused()
        for name in model.buffers.keys() & weights.names.keys():
            # A persistent one (a router's correction bias) is no constant.
            like = model.buffers[name].dtype
            model.buffers[name] = weights.read(name).to(like)
        return _Loaded(model, weights, interface(model, request, model.discovery.vocab_size))


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


def _check_space(loaded: _Loaded, destination: Path) -> None:
    needed = loaded.bytes + (64 << 20)
    free = shutil.disk_usage(destination.parent).free
    if free < needed:
        raise InputError(
            f"output {destination}: needs {needed >> 20} MB, the disk has {free >> 20} MB free",
            "free some space or choose another place with -o",
        )


def _compile_programs(
    build: _Build, loaded: _Loaded, work: Path, result: Path
) -> dict[str, int] | None:
    """Runs the stages for each target.

    Returns:
        Bytes that a call allocates, by target; None when told to stop before the last stage.
    """
    exported, stop = work / file_of(EXPORTED, ""), build.request.stop_after
    _export(build, loaded, exported)
    if stop == EXPORTED:
        return None
    memory: dict[str, int] = {}
    for target in build.targets:
        current = build.start[1] if build.start and build.start[0] != EXPORTED else exported
        for stage in _stages_to_run(build.start, stop):
            produced = work / file_of(stage, target.name)
            with build.progress.stage(stage, f"{target.name} {target.architecture}"):
                try:
                    STAGES[stage](current, produced, target, build.request)
                    if stage == "vmfb":
                        memory[target.name] = call_memory(current, target, build.request)
                finally:
                    _dump(build, produced, produced.with_suffix(".log"))
            current = produced
        if stop is None:
            current.rename(result / current.name)
    return memory if stop is None else None


def _stages_to_run(start: tuple[str, Path] | None, stop: str | None) -> list[str]:
    """The stages after the one of the file to start from, up to the one to stop after."""
    names = list(STAGES)
    first = names.index(start[0]) + 1 if start and start[0] != EXPORTED else 0
    return names[first : names.index(stop) + 1 if stop else None]


def _export(build: _Build, loaded: _Loaded, exported: Path) -> None:
    """Writes the exported module, unless a later stage is the one to start from."""
    if build.start is None:
        layers = f"{_layers(build.source)} layers"
        with build.progress.stage("export", layers), ir.Context() as context:
            module = export(loaded.model, build.request, context)
            exported.write_text(str(module), "utf-8")
    elif build.start[0] == EXPORTED:
        shutil.copyfile(build.start[1], exported)
    _dump(build, exported)


def _dump(build: _Build, *files: Path) -> None:
    if build.dump is None:
        return
    for file in files:
        if file.exists():
            shutil.copyfile(file, build.dump / file.name)


def _write_weights(build: _Build, loaded: _Loaded, result: Path) -> None:
    total = loaded.bytes
    kind = " ".join(weight_formats(loaded.model)) or build.request.dtype
    with build.progress.stage("weights", f"{total / 1e6:.0f} MB {kind}"):
        write_archive(
            result / WEIGHTS,
            loaded.entries,
            StoredWeights(loaded.model, loaded.weights).read,
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


def _manifest(build: _Build, loaded: _Loaded, memory: dict[str, int], result: Path) -> Manifest:
    source, model, options = build.source, loaded.model, build.request
    assert options.ctx_size is not None
    entries = loaded.entries
    count = model.parameter_count
    used = usage(model.module, model.parameters, model.discovery)
    idle = sum((1 - used.active[n]) * model.weight_count(n) for n in model.parameters)
    read = sum(used.read[n] * entry.bytes for n, entry in entries.items())
    width = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1}
    state = 0
    for buffer in loaded.interface.state:
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
            rope_switches=loaded.interface.rope_switches,
        ),
        options=options.to_dict(),
        dtype=options.dtype,
        quantization=describe_quantization(model, build.targets),
        prompt=loaded.interface.prompt,
        entry_points=loaded.interface.entry_points,
        state=loaded.interface.state,
        programs={
            t.name: Program(
                target=f"{t.name}:{t.architecture}",
                driver=t.driver,
                file=file_of("vmfb", t.name),
                pipelines={
                    "lowered": str(torch_pipeline(t, options)),
                    "input": str(t.input_pipeline),
                    "stream": str(t.stream_pipeline),
                },
                requirements=requirements(t, result / file_of("vmfb", t.name)),
                compile_flags=t.flags,
                prompt_sizes=prompt_sizes(t, options),
                call_memory=memory[t.name],
            )
            for t in build.targets
        },
        parameters=ParameterFile(WEIGHTS, PARAMETER_SCOPE, len(entries), loaded.bytes),
        memory=Memory(loaded.bytes, state, weights_per_token=int(read)),
        files=writing.file_records(result),
        batch_sizes=options.batch,
    )


def _layers(source: ModelSource) -> int:
    return int(source.config.get_text_config().num_hidden_layers)
