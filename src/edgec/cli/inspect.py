"""`edgec inspect`: what is in an artifact."""

from __future__ import annotations

import dataclasses
from collections import Counter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgec.artifact import Artifact
from edgec.cli.options import Json, Verbose
from edgec.cli.text import count, layers_together, print_json, printable, size, stdout
from edgec.errors import ArtifactError, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgec.manifest import Manifest, StateBuffer

__all__ = ["describe", "inspect"]

_LONGEST = 10_000  # characters of a row
_KINDS = 20  # of state buffers
DTYPE_BYTES = {"f32": 4, "i32": 4, "f16": 2, "bf16": 2, "i64": 8, "i8": 1, "i1": 1, "f64": 8}


def inspect(
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", show_default=False, help="Artifact folder.")
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file and compare its SHA-256.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what an artifact holds and needs."""
    opened = Artifact.open(artifact)
    if verify:
        opened.verify()
    if json:
        verified = {"verified": True} if verify else {}
        try:
            print_json(dataclasses.asdict(opened.manifest) | verified)
        except RecursionError:
            raise ArtifactError(f"artifact {artifact}: its manifest is nested too deep") from None
        return

    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 3))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in describe(opened.manifest):
        # Names and values are a file's: neither markup nor commands to the terminal.
        table.add_row(Text(printable(name)), Text(printable(shortened(value, _LONGEST), "\n")))
    console = stdout()
    console.print(Text(printable(str(opened.path)), style="bold"), soft_wrap=True)
    console.print(opened.sha256, soft_wrap=True)
    console.print(table)
    if verify:
        console.print(f"[green]✓[/] all {len(opened.manifest.files)} files match their SHA-256")


def describe(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The manifest as rows of a name and a text, for a person."""
    model, prompt, memory = manifest.model, manifest.prompt, manifest.memory
    revision = f" @ {_short(model.revision, 20)}" if model.revision else ""
    yield "model", f"{model.id}{revision}"
    yield (
        "architecture",
        f"{model.architecture}, {model.layers} layers, vocabulary {model.vocab_size}",
    )
    active = ""
    if model.active_parameters != model.parameters:
        active = f", {count(model.active_parameters)} active"
    yield "parameters", f"{count(model.parameters)}{active}"
    if model.experts:
        yield "experts", f"{model.experts} a layer, {model.experts_per_token} for each token"
    if model.attention == "own":
        yield "attention", "the family's own code, over all rows of the context"
    yield "dtype", manifest.dtype + _quantization(manifest)
    yield "context", f"{model.context} tokens (the model's own: {model.max_context})"
    yield (
        "prompt",
        f"{prompt.min} to {prompt.max} tokens a call, padded to a multiple of {prompt.multiple_of}",
    )
    for name, program in manifest.programs.items():
        record = manifest.files[program.file]
        needs = ", ".join(
            f"{k.replace('_', ' ')} {_few(v)}".strip() for k, v in program.requirements.items()
        )
        yield (
            f"target {name}",
            f"{program.file}, {size(record.size)}, driver {program.driver}"
            + (f", needs {needs}" if needs else ""),
        )
    for line in summarise_state(manifest.state):
        yield "state", line
    yield (
        "memory",
        f"weights {size(memory.weights)} + {size(memory.state_per_sequence)} per sequence",
    )
    if memory.weights_per_token:
        yield "read for a token", f"{size(memory.weights_per_token)} of the weights"
    yield "made by", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield "digest", _short(manifest.digest, 16)
    width = max(map(len, manifest.files), default=0)
    files = [f"{name:{width}}  {size(record.size)}" for name, record in manifest.files.items()]
    total = size(sum(record.size for record in manifest.files.values()))
    yield "files", "\n".join([*files, f"{'total':{width}}  {total}"])


def summarise_state(state: tuple[StateBuffer, ...]) -> Iterator[str]:
    """Equal buffers on one line: `56 × attention f16[1056,8,128] = 121 MB per sequence`."""
    kinds = Counter((buffer.kind, buffer.dtype, buffer.shape) for buffer in state)
    if len(kinds) > _KINDS:
        yield f"{len(kinds)} kinds of buffers, of which {_KINDS} are"
    for (kind, dtype, shape), number in list(kinds.items())[:_KINDS]:
        dims = ",".join(map(str, shape))
        total = number * prod(shape) * DTYPE_BYTES.get(dtype, 0)
        yield f"{number} × {kind} {dtype}[{dims}] = {size(total)} per sequence"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "…"


def _few(value: str, limit: int = 4) -> str:
    """The first few of a list with commas; `--json` has them all."""
    parts = value.split(",")
    if len(parts) <= limit:
        return value
    return f"{' '.join(parts[:limit])} and {len(parts) - limit} more"


def _quantization(manifest: Manifest) -> str:
    settings = {k: v for k, v in manifest.quantization.items() if v and v != "none"}
    bytes_ = settings.pop("unquantized_bytes", "")  # artifacts of before have none
    if kept := settings.get("unquantized"):
        much = f" ({size(int(bytes_))})" if bytes_.isdecimal() else ""
        settings["unquantized"] = layers_together(kept.split(", ")) + much
    return "".join(f", {name.replace('_', ' ')} {value}" for name, value in settings.items())
