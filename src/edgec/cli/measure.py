"""`edgec bench roofline` and `edgec bench ablation`: what `edgec.bench` measures."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from edgec.cli.bench import Repetitions
from edgec.cli.extra import require_compile
from edgec.cli.flags import Only, numbers, with_groups
from edgec.cli.options import Device, Threads, Verbose
from edgec.errors import InputError
from edgec.options import CompileRequest

__all__ = ["ablation", "roofline"]

Output = Annotated[
    str, typer.Option("--output", "-o", help="md, json, or a .json file to write beside md.")
]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="DIR", help="Also an HTML page with tables and plots."),
]


def roofline(
    artifacts: Annotated[
        list[str],
        typer.Argument(metavar="ARTIFACT", show_default=False, help="Artifact folders."),
    ],
    scenarios: Annotated[
        str, typer.Option("--scenarios", metavar="S,..", help="SISO, SILO, LISO, LILO, or some.")
    ] = "SISO,SILO,LISO,LILO",
    scale: Annotated[int, typer.Option("--scale", metavar="N", help="Divides lengths.")] = 8,
    repetitions: Repetitions = 5,
    output: Output = "md",
    report: Report = None,
    device: Device = None,
    threads: Threads = None,
    verbose: Verbose = False,
) -> None:
    """Place artifacts under the machine's measured ceilings."""
    _check_output(output)
    from edgec.bench.roofline import parse_scenarios
    from edgec.bench.roofline import roofline as measure

    wanted = parse_scenarios(scenarios, scale)
    result = measure(
        [(Path(artifact).stem, Path(artifact)) for artifact in artifacts],
        say=_progress,
        scenarios=wanted,
        device=device,
        threads=threads,
        repetitions=repetitions,
    )
    _show(result, output, report)


@with_groups
def ablation(
    request: Annotated[
        CompileRequest,
        Only(
            "target", "dtype", "quantize", "layers", "trust_remote_code", model="bundled:tiny-dense"
        ),
    ],
    *,
    n_prompt: Annotated[
        str | None,
        typer.Option("--n-prompt", "--lengths", "-p", metavar="N,..", help="Prompt lengths."),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option("--arms", metavar="NAME;..", help="Some arms only; none is always there."),
    ] = None,
    repetitions: Repetitions = 5,
    output: Output = "md",
    report: Report = None,
    threads: Threads = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep the artifacts there.")
    ] = None,
    compile_only: Annotated[
        bool, typer.Option("--compile-only", help="Compile into --keep, for another machine.")
    ] = False,
    measure_only: Annotated[
        bool, typer.Option("--measure-only", help="Measure what is in --keep; needs no compiler.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Compile a model with every treatment of the prompt's length, and compare."""
    _check_output(output)
    if (compile_only or measure_only) and keep is None:
        raise InputError("--compile-only and --measure-only: where?", "add --keep DIR")
    if compile_only and measure_only:
        raise InputError("--compile-only and --measure-only: one at a time")
    lengths = numbers("--n-prompt", n_prompt) if n_prompt else None
    if not measure_only:
        require_compile("edgec bench ablation")
    from edgec.bench.ablation import compile_arms, measure_arms

    with nullcontext(keep) if keep else TemporaryDirectory(prefix="edgec-ablation-") as place:
        if not measure_only:
            compile_arms(request, Path(place), _progress, lengths, arms)
        if compile_only:
            return
        result = measure_arms(Path(place), say=_progress, repetitions=repetitions, threads=threads)
    _show(result, output, report)


def _check_output(output: str) -> None:
    if output not in ("md", "json") and not output.endswith(".json"):
        raise InputError(f"--output {output}: must be md, json, or a file that ends in .json")


def _show(result: dict[str, Any], output: str, report: Path | None) -> None:
    from edgec.bench.report import present, write_report

    if output == "json":
        print(json.dumps(result, indent=2))
        page = write_report(report, [result]) if report else None
    else:
        page = present(result, output=None if output == "md" else Path(output), report=report)
    if page:
        _progress(f"{page}")


def _progress(text: str) -> None:
    from edgec.cli.text import stderr

    stderr().print(text, style="dim", soft_wrap=True, highlight=False, markup=False)
