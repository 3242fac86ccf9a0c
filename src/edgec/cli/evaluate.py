"""`edgec eval`: quality of an artifact."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.options import Device, Json, Threads, Verbose
from edgec.cli.streams import read_text
from edgec.cli.text import print_json

__all__ = ["app"]

app = typer.Typer(help="Measure the quality of an artifact.", no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Measure the quality of an artifact."""


@app.command()
def ppl(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="UTF-8 text.")],
    artifact: Annotated[
        Path, typer.Option("--artifact", metavar="DIR", help="Artifact folder.", show_default=False)
    ],
    window: Annotated[
        int, typer.Option("--window", min=2, help="Tokens of a window, each from an empty state.")
    ] = 512,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", metavar="N", min=2, help="Only the first N tokens of the text."),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Perplexity on a text, and how often the most likely token is the right one."""
    text = read_text(file, str(file))
    from edgec.runtime.perplexity import perplexity
    from edgec.runtime.session import Session

    session = Session(artifact, device=device, threads=threads)
    result = perplexity(session, text, window=window, limit=tokens)
    if json:
        print_json(dataclasses.asdict(result))
        return
    print(
        f"perplexity {result.perplexity:.4f} on {result.tokens} tokens in windows of"
        f" {result.window}, {result.top1:.1%} predicted right"
    )
