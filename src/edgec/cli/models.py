"""`edgec models`: the presets and bundled models, and making a model folder from a preset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.extra import require_compile
from edgec.cli.options import Json, Verbose
from edgec.cli.text import count, duration, print_json, size, stderr, stdout

__all__ = ["app"]

app = typer.Typer(
    help="List the presets and bundled models; make a model folder.", invoke_without_command=True
)


@app.callback()
def models(context: typer.Context, json: Json = False, verbose: Verbose = False) -> None:
    """List the presets and bundled models; make a model folder."""
    if context.invoked_subcommand:
        return
    require_compile("edgec models")
    from edgec.models import list_models

    rows = [_as_mapping(row) for row in list_models()]
    if json:
        print_json(rows)
        return

    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    columns = list(rows[0]) if rows else []
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*(_cell(column, row.get(column)) for column in columns))
    stdout().print(table)


@app.command()
def create(
    preset: Annotated[str, typer.Argument(metavar="PRESET", show_default=False, help="Its name.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", show_default=False, help="Folder to write."),
    ],
    layers: Annotated[
        int | None, typer.Option("--layers", metavar="N", min=1, help="The first N layers only.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the weights.")] = 0,
    dtype: Annotated[str, typer.Option("--dtype", help="f32, f16 or bf16.")] = "f32",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the folder.")] = False,
    verbose: Verbose = False,
) -> None:
    """Write a Hugging Face model folder with a preset's configuration and random weights."""
    require_compile("edgec models create")
    import time

    from edgec.models import create as make

    start = time.perf_counter()
    make.create(preset, output, layers=layers, seed=seed, dtype=dtype, force=force)
    total = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    took = duration(time.perf_counter() - start)
    stderr().print(f"{output}  [dim]{size(total)} · {took}[/]", soft_wrap=True)


def _as_mapping(row: Any) -> Mapping[str, Any]:
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return dataclasses.asdict(row)
    assert isinstance(row, Mapping)
    return dict(row)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and "parameters" in column:
        return count(value)
    if isinstance(value, int) and "bytes" in column:
        return size(value)
    return str(value)
