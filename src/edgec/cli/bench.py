"""`edgec bench`: speed, with llama-bench's flags, definitions and output."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli.flags import numbers, with_groups
from edgec.cli.options import Place, Verbose
from edgec.errors import InputError

if TYPE_CHECKING:
    from edgec.runtime.bench import BenchResult, BenchTest

__all__ = ["Repetitions", "bench_artifact", "parse_tests"]

FORMATS = ("md", "csv", "json", "jsonl")
Repetitions = Annotated[
    int, typer.Option("--repetitions", "-r", min=1, help="Repetitions of each test.")
]


@with_groups
def bench_artifact(
    artifact: Annotated[
        str, typer.Argument(metavar="ARTIFACT", show_default=False, help="Artifact folder.")
    ],
    *,
    n_prompt: Annotated[
        str, typer.Option("--n-prompt", "-p", metavar="N,..", help="Prompt lengths; 0 none.")
    ] = "512",
    n_gen: Annotated[
        str, typer.Option("--n-gen", "-n", metavar="N,..", help="Tokens to decode; 0 none.")
    ] = "128",
    pg: Annotated[
        list[str] | None,
        typer.Option("-pg", metavar="P,G", help="Also prompt and decode together; repeatable."),
    ] = None,
    n_depth: Annotated[
        str,
        typer.Option("--n-depth", "-d", metavar="N,..", help="Tokens in the state before."),
    ] = "0",
    repetitions: Repetitions = 5,
    output: Annotated[str, typer.Option("--output", "-o", help="md, csv, json or jsonl.")] = "md",
    no_warmup: Annotated[bool, typer.Option("--no-warmup", help="Without warm-up runs.")] = False,
    place: Place,
    verbose: Verbose = False,
) -> None:
    """Measure prefill and decode speed."""
    if output not in FORMATS:
        raise InputError(f"--output {output}: must be one of {', '.join(FORMATS)}")
    tests = parse_tests(n_prompt, n_gen, pg or [], n_depth)
    from edgec.artifact import Artifact
    from edgec.runtime.bench import bench
    from edgec.runtime.session import Session

    opened = Artifact.open(artifact, place.expect)
    session = Session(opened, device=place.device, threads=place.threads)
    about = _about(session, place.threads)
    results = bench(session, tests, repetitions=repetitions, warmup=not no_warmup)
    if output == "md":
        _markdown(about, results)
        return
    rows: Iterable[dict[str, Any]] = (about | result.to_dict() for result in results)
    if output == "jsonl":
        for row in rows:
            print(json.dumps(row), flush=True)
    elif output == "json":
        print(json.dumps(list(rows), indent=2))
    else:
        _csv(rows)


def parse_tests(n_prompt: str, n_gen: str, pg: list[str], n_depth: str) -> list[BenchTest]:
    """The tests that the flags ask for, in llama-bench's order.

    Raises:
        InputError: a value that is no list of numbers, or nothing to do.
    """
    from edgec.runtime.bench import BenchTest

    tests = []
    for depth in numbers("-d", n_depth):
        tests += [BenchTest(n, 0, depth) for n in numbers("-p", n_prompt) if n]
        tests += [BenchTest(0, n, depth) for n in numbers("-n", n_gen) if n]
        for pair in pg:
            both = numbers("-pg", pair)
            if len(both) != 2:
                raise InputError(f"-pg {pair}: must be two numbers, such as 512,128")
            tests.append(BenchTest(both[0], both[1], depth))
    if not tests:
        raise InputError("nothing to measure", "give -p, -n or -pg a number above 0")
    return tests


def _about(session: Any, threads: int | None) -> dict[str, Any]:
    """llama-bench's fields about the model and the device, those that apply."""
    from edgec.bench.machine import describe

    machine, manifest = describe(), session.artifact.manifest
    quantization = manifest.quantization.get("weights", "none")
    return {
        "build_commit": machine["commit"],
        "cpu_info": f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB",
        "model_filename": str(session.artifact.path),
        "model_type": f"{manifest.model.id} "
        f"{manifest.dtype if quantization == 'none' else quantization}",
        "model_size": manifest.memory.weights,
        "model_n_params": manifest.model.parameters,
        "backends": session.model.program.program.target,
        "n_threads": threads,
    }


def _markdown(about: dict[str, Any], results: Iterable[BenchResult]) -> None:
    from edgec.cli.text import count, size

    print("| model | size | params | backend | threads | test | t/s |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: |")
    for result in results:
        cells = [
            about["model_type"],
            size(about["model_size"]),
            count(about["model_n_params"]),
            about["backends"],
            str(about["n_threads"] or "all"),
            result.test.name,
            f"{result.avg_ts:.2f} ± {result.stddev_ts:.2f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def _csv(rows: Iterable[dict[str, Any]]) -> None:
    """Like llama-bench's: no samples, every field quoted."""
    writer = None
    for row in rows:
        plain = {k: v for k, v in row.items() if not isinstance(v, list)}
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(plain), quoting=csv.QUOTE_ALL)
            writer.writeheader()
        writer.writerow(plain)
