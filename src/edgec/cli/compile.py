"""`edgec compile`: a model in, an artifact out."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from edgec.cli.extra import require_compile
from edgec.cli.flags import with_groups
from edgec.cli.memory import PeakMemory
from edgec.cli.options import Json, Verbose
from edgec.cli.progress import StageProgress
from edgec.cli.text import duration, layers_together, print_json, printable, size, stderr
from edgec.manifest import MANIFEST_NAME
from edgec.options import CompileRequest

if TYPE_CHECKING:
    from edgec.artifact import Artifact
    from edgec.manifest import Manifest

__all__ = ["compile_model", "compile_with_progress"]


@with_groups
def compile_model(request: CompileRequest, json: Json = False, verbose: Verbose = False) -> None:
    """Compile a model ahead of time into an artifact folder."""
    started = time.time()
    with PeakMemory() as memory:
        artifact = compile_with_progress("edgec compile", request, quiet=json)
    seconds = time.time() - started
    if artifact is None:
        stderr().print(
            f"stopped after {request.stop_after}; see {request.dump_ir}",
            soft_wrap=True,
            markup=False,
        )
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
    """A sentence about a large share of the weights' bytes that is left as floats; or nothing."""
    kept = int(manifest.quantization.get("unquantized_bytes", 0))
    share = kept / max(1, manifest.memory.weights)
    if share < _MUCH:
        return ""
    names = layers_together(manifest.quantization["unquantized"].split(", "))
    return f"not quantised: {share:.0%} of the weights' bytes, {size(kept)}: {names}"


def compile_with_progress(command: str, request: CompileRequest, *, quiet: bool) -> Artifact | None:
    """Compiles as `edgec.compile` does, showing progress on stderr unless `quiet`.

    Returns:
        The artifact, or None when told to stop before the last stage.
    """
    require_compile(command)
    from edgec.compiler import check

    targets = check(request)  # a mistake is refused before what takes seconds to load
    progress = StageProgress(quiet=quiet)
    with progress.stage("load the compiler"):
        from edgec.compiler.driver import build
    return build(dataclasses.replace(request, progress=progress), targets)
