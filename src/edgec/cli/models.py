"""`edgec models`: the presets and bundled models, and making a model folder from a preset."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.extra import require_compile
from edgec.cli.options import Json, Verbose
from edgec.cli.progress import StageProgress
from edgec.cli.text import count, duration, print_json, size, stderr, stdout

__all__ = ["app"]

app = typer.Typer(
    help="List the presets and bundled models; make a model folder.", invoke_without_command=True
)


@app.callback()
def models(
    context: typer.Context,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Compile and compare every family of transformers.")
    ] = False,
    families: Annotated[
        str,
        typer.Option(
            "--families", metavar="A,B", help="With --coverage: only these, or `failing`."
        ),
    ] = "",
    jobs: Annotated[
        int, typer.Option("--jobs", metavar="N", min=1, help="With --coverage: processes.")
    ] = 1,
    target: Annotated[str, typer.Option("--target", help="With --coverage: the target.")] = "cpu",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="With --coverage: forget earlier results.")
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write", metavar="FILE", show_default=False, help="With --coverage: docs/models.md."
        ),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the presets and bundled models; make a model folder; measure coverage."""
    if context.invoked_subcommand:
        return
    if coverage:
        from edgec.cli.coverage import run_coverage

        raise typer.Exit(run_coverage(families, jobs, target, fresh=fresh, write=write, json=json))
    require_compile("edgec models")
    from edgec.models.create import list_models

    rows = list_models()
    if json:
        print_json([dataclasses.asdict(row) for row in rows])
        return

    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("model", "architecture", "parameters", "bf16"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(row.name, row.architecture, count(row.parameters), size(row.bytes))
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
    dtype: Annotated[str, typer.Option("--dtype", help="f32, f16 or bf16.")] = "bf16",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the folder.")] = False,
    verbose: Verbose = False,
) -> None:
    """Write a Hugging Face model folder with a preset's configuration and random weights."""
    require_compile("edgec models create")
    from edgec.models.create import create as write_folder

    start = time.perf_counter()
    progress = StageProgress()
    with progress.stage("write", preset):
        write_folder(
            preset,
            output,
            layers=layers,
            seed=seed,
            dtype=dtype,
            force=force,
            progress=lambda _, done, total: progress.update(done, total, "B"),
        )
    total = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    took = duration(time.perf_counter() - start)
    from rich.markup import escape

    stderr().print(f"{escape(str(output))}  [dim]{size(total)} · {took}[/]", soft_wrap=True)
