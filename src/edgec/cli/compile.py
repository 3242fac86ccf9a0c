"""`edgec compile`: a model in, an artifact out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli.extra import require_compile
from edgec.cli.memory import PeakMemory
from edgec.cli.options import CacheDir, Json, Offline, Revision, TrustRemoteCode, Verbose
from edgec.cli.progress import StageProgress
from edgec.cli.text import duration, layers_together, print_json, printable, size, stderr
from edgec.errors import InputError
from edgec.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from edgec.artifact import Artifact
    from edgec.manifest import Manifest

__all__ = ["compile_model"]


def compile_model(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Hub id, folder, GGUF file, or a name that `edgec models` lists.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            envvar="EDGEC_TARGET",
            help="cpu, vulkan[:ARCH], cuda[:ARCH]; several with commas.",
        ),
    ] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder to write; default in the cache.", metavar="DIR"
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", envvar="EDGEC_DTYPE", help="f32, f16 or bf16.")
    ] = "f32",
    kv_dtype: Annotated[
        str | None,
        typer.Option(
            "--kv-dtype",
            envvar="EDGEC_KV_DTYPE",
            metavar="TYPE",
            help="Of the KV cache: f32, f16, bf16, int8; default --dtype, or f16 if weights are "
            "quantised.",
        ),
    ] = None,
    ctx_size: Annotated[
        int | None,
        typer.Option(
            "--ctx-size",
            "-c",
            envvar="EDGEC_CTX_SIZE",
            metavar="N",
            help="Context in tokens; default the model's, at most 4096.",
        ),
    ] = None,
    prompt_multiple: Annotated[
        int,
        typer.Option(
            "--prompt-multiple",
            envvar="EDGEC_PROMPT_MULTIPLE",
            metavar="N",
            help="Prompts are padded to a multiple of N tokens.",
        ),
    ] = 32,
    chunk_size: Annotated[
        int | None,
        typer.Option(
            "--chunk-size",
            envvar="EDGEC_CHUNK_SIZE",
            metavar="N",
            help="Longer prompts are computed N tokens at a time.",
        ),
    ] = None,
    batch: Annotated[
        str,
        typer.Option(
            "--batch",
            envvar="EDGEC_BATCH",
            metavar="SIZES",
            help="Sequences that a decode step can compute at once, such as 1,4.",
        ),
    ] = "1",
    dynamic_shapes: Annotated[
        str,
        typer.Option(
            "--dynamic-shapes",
            envvar="EDGEC_DYNAMIC_SHAPES",
            help="Where prompts are padded: input (the model's), op (each op's) or none.",
        ),
    ] = "input",
    quantize: Annotated[
        str, typer.Option("--quantize", envvar="EDGEC_QUANTIZE", help="none, int8 or int4.")
    ] = "none",
    group_size: Annotated[
        str | None,
        typer.Option(
            "--group-size",
            envvar="EDGEC_GROUP_SIZE",
            metavar="N",
            help="Weights that share a scale: 32 (default), 64, 128 or channel.",
        ),
    ] = None,
    embedding_quantize: Annotated[
        str | None,
        typer.Option(
            "--embedding-quantize",
            envvar="EDGEC_EMBEDDING_QUANTIZE",
            metavar="FORMAT",
            help="The same for embeddings and lm_head; default as --quantize.",
        ),
    ] = None,
    asymmetric: Annotated[
        bool,
        typer.Option(
            "--asymmetric",
            envvar="EDGEC_ASYMMETRIC",
            help="int4: a zero point beside each scale, for better quality.",
        ),
    ] = False,
    revision: Revision = None,
    offline: Offline = False,
    trust_remote_code: TrustRemoteCode = False,
    cache_dir: CacheDir = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Build even if an equal build is there.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Build again, and overwrite the output.")
    ] = False,
    dump_ir: Annotated[
        Path | None,
        typer.Option("--dump-ir", metavar="DIR", help="Write the IR of every stage there."),
    ] = None,
    stop_after: Annotated[
        str | None,
        typer.Option("--stop-after", metavar="STAGE", help="Stop when this stage is done."),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option("--start-from", metavar="FILE", help="Go on from a dumped file."),
    ] = None,
    expert_stats: Annotated[
        bool,
        typer.Option("--expert-stats", help="Count the tokens of each expert, for run --stats."),
    ] = False,
    layers: Annotated[
        int | None,
        typer.Option("--layers", metavar="N", min=1, help="The first N layers only."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Presets: seed of the weights.")] = 0,
    extra_compile_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--extra-compile-arg", metavar="X", help="Pass X to the compiler; repeatable."
        ),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compile a model ahead of time into an artifact folder."""
    # Refused here too: what follows takes seconds to load.
    if quantize not in ("none", "int8", "int4"):
        raise InputError(f"--quantize {quantize}: must be none, int8 or int4")
    options = {
        "target": target,
        "output": output,
        "dtype": dtype,
        "kv_dtype": kv_dtype,
        "ctx_size": ctx_size,
        "prompt_multiple": prompt_multiple,
        "chunk_size": chunk_size,
        "batch": _sizes(batch),
        "dynamic_shapes": dynamic_shapes,
        "quantize": quantize,
        "group_size": group_size,
        "embedding_quantize": embedding_quantize,
        "asymmetric": asymmetric,
        "revision": revision,
        "offline": offline,
        "trust_remote_code": trust_remote_code,
        "cache_dir": cache_dir,
        "use_cache": not no_cache,
        "force": force,
        "dump_ir": dump_ir,
        "stop_after": stop_after,
        "start_from": start_from,
        "extra_compile_args": tuple(extra_compile_arg or ()),
        "expert_stats": expert_stats,
        "layers": layers,
        "seed": seed,
    }
    started = time.time()
    with PeakMemory() as memory:
        artifact = compile_with_progress("edgec compile", model, quiet=json, **options)
    seconds = time.time() - started
    if artifact is None:
        stderr().print(f"stopped after {stop_after}; see {dump_ir}", soft_wrap=True, markup=False)
        return
    # A build that was found has an older manifest.
    fresh = (artifact.path / MANIFEST_NAME).stat().st_mtime >= started - 0.1
    total = sum(record.size for record in artifact.manifest.files.values())
    if json:
        print_json(
            {
                "artifact": str(artifact.path),
                "digest": artifact.manifest.digest,
                "bytes": total,
                "compiled": fresh,
                "seconds": round(seconds, 3),
                "peak_rss_mb": round(memory.peak / 1e6, 1),
            }
        )
        return
    from rich.markup import escape

    how = "compiled in" if fresh else "unchanged, checked in"
    stderr().print(
        f"{escape(printable(str(artifact.path)))}  [dim]{size(total)} · {how} {duration(seconds)}"
        f" · peak memory {size(memory.peak)}[/]",
        soft_wrap=True,
    )
    if kept := _unquantized(artifact.manifest):
        stderr().print(kept, style="yellow", soft_wrap=True, markup=False)
    if artifact.manifest.model.attention == "own":
        stderr().print(
            f"{artifact.manifest.model.model_type} attends with its own code: the work of"
            " a step follows the context, not the depth",
            style="dim",
            soft_wrap=True,
            markup=False,
        )


# Routers and the like, which are meant to stay as they are, are far below it.
_MUCH = 0.05


def _unquantized(manifest: Manifest) -> str:
    """What a large share of the weights' bytes is left as floats, in a sentence; or nothing."""
    kept = int(manifest.quantization.get("unquantized_bytes", 0))
    share = kept / max(1, manifest.memory.weights)
    if share < _MUCH:
        return ""
    names = layers_together(manifest.quantization["unquantized"].split(", "))
    return f"not quantised: {share:.0%} of the weights' bytes, {size(kept)}: {names}"


def compile_with_progress(
    command: str, model: str, *, quiet: bool, **options: Any
) -> Artifact | None:
    """Calls `edgec.compile`, showing progress on stderr unless `quiet`.

    Returns:
        The artifact, or None when told to stop before the last stage.
    """
    require_compile(command)
    from edgec.models.sources.resolve import check_name

    check_name(model)  # a typo is refused before what takes seconds to load
    progress = StageProgress(quiet=quiet)
    with progress.stage("load the compiler"):
        from edgec.compiler import compile
    return compile(model, progress=progress, **options)


def _sizes(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise InputError(f"--batch {text}: must be numbers with commas, such as 1,4")
    return tuple(int(part) for part in parts)
