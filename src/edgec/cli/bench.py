"""`edgec bench`: speed, with llama-bench's flags, definitions and output.

With `--ablation` or `--roofline` it measures other things of `edgec.bench`: which of the flags
apply is checked here, what they do is not.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli.options import Device, Expect, Threads, TrustRemoteCode, Verbose
from edgec.errors import InputError

if TYPE_CHECKING:
    from edgec.runtime.bench import BenchResult, BenchTest

__all__ = ["bench_artifact", "parse_tests"]

FORMATS = ("md", "csv", "json", "jsonl")


def bench_artifact(
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT", show_default=False, help="Artifact folder; a MODEL for --ablation."
        ),
    ],
    n_prompt: Annotated[
        str | None,
        typer.Option(
            "--n-prompt", "-p", metavar="N,..", help="Prompt lengths, default 512; 0 none."
        ),
    ] = None,
    n_gen: Annotated[
        str | None,
        typer.Option(
            "--n-gen", "-n", metavar="N,..", help="Tokens to decode, default 128; 0 none."
        ),
    ] = None,
    pg: Annotated[
        list[str] | None,
        typer.Option("-pg", metavar="P,G", help="Also prompt and decode together; repeatable."),
    ] = None,
    n_depth: Annotated[
        str | None,
        typer.Option("--n-depth", "-d", metavar="N,..", help="Tokens in the state before."),
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, help="Repetitions of each test.")
    ] = 5,
    output: Annotated[str, typer.Option("--output", "-o", help="md, csv, json or jsonl.")] = "md",
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Where to pad: compile MODEL in every way, compare.")
    ] = False,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Place it under the machine's measured ceilings.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Also an HTML page with tables and plots."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="--ablation: as for compile; default cpu.")
    ] = None,
    layers: Annotated[
        int | None, typer.Option("--layers", metavar="N", min=1, help="--ablation: first N layers.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="--ablation: f32 (default), f16 or bf16.")
    ] = None,
    scenarios: Annotated[
        str | None,
        typer.Option("--scenarios", metavar="S,..", help="--roofline: of SISO, SILO, LISO, LILO."),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option("--scale", metavar="N", help="--roofline: divides lengths; default 8."),
    ] = None,
    no_warmup: Annotated[bool, typer.Option("--no-warmup", help="Without warm-up runs.")] = False,
    device: Device = None,
    threads: Threads = None,
    expect: Expect = None,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Measure prefill and decode speed."""
    if output not in FORMATS:
        raise InputError(f"--output {output}: must be one of {', '.join(FORMATS)}")
    mode = _mode(ablation, roofline, report)
    _only("ablation", mode, target=target, layers=layers, dtype=dtype)
    _only("roofline", mode, scenarios=scenarios, scale=scale)
    if mode != "tests":
        if output not in ("md", "json"):
            raise InputError(f"--output {output}: with --{mode} md or json")
        unused = {"n-gen": n_gen, "n-depth": n_depth, "pg": pg, "no-warmup": no_warmup or None}
        _only("tests", mode, **unused, **({} if ablation else {"n-prompt": n_prompt}))
    _only("tests", mode, expect=expect)
    if ablation:
        _ablation(
            artifact, output, report, target or "cpu", n_prompt, repetitions, threads,
            layers=layers, dtype=dtype or "f32", trust_remote_code=trust_remote_code,
        )  # fmt: skip
        return
    if roofline:
        chosen = scenarios or "SISO,SILO,LISO,LILO"
        _roofline(artifact, output, report, chosen, scale, device, threads, repetitions)
        return
    n_prompt, n_gen, n_depth = n_prompt or "512", n_gen or "128", n_depth or "0"
    tests = parse_tests(n_prompt, n_gen, pg or [], n_depth)
    from edgec.artifact import Artifact
    from edgec.runtime.bench import bench
    from edgec.runtime.session import Session

    session = Session(Artifact.open(artifact, expect), device=device, threads=threads)
    about = _about(session, threads)
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


def _mode(ablation: bool, roofline: bool, report: Path | None) -> str:
    if ablation and roofline:
        raise InputError("--ablation and --roofline: one at a time")
    if report is not None and not (ablation or roofline):
        raise InputError("--report: reports --ablation or --roofline", "add one of them")
    return "ablation" if ablation else "roofline" if roofline else "tests"


def _only(wanted: str, mode: str, **flags: object) -> None:
    """Refuses flags that the mode would pass over in silence."""
    given = [name for name, value in flags.items() if value is not None]
    if given and mode != wanted:
        remedy = "leave it out" if wanted == "tests" else f"add --{wanted}"
        raise InputError(f"--{given[0]}: not for this measurement", remedy)


def _ablation(
    model: str,
    output: str,
    report: Path | None,
    target: str,
    n_prompt: str | None,
    repetitions: int,
    threads: int | None,
    **options: Any,
) -> None:
    from edgec.cli.extra import require_compile

    require_compile("edgec bench --ablation")
    from edgec.models.sources.resolve import check_name

    check_name(model)
    lengths = tuple(_numbers("-p", n_prompt)) if n_prompt else None
    from edgec.bench.ablation import run_ablation

    with tempfile.TemporaryDirectory(prefix="edgec-ablation-") as folder:
        result = run_ablation(
            model, target=target, folder=Path(folder), say=_progress, lengths=lengths,
            repetitions=repetitions, threads=threads, **options,
        )  # fmt: skip
    _show(result, output, report)


def _roofline(
    artifact: str,
    output: str,
    report: Path | None,
    scenarios: str,
    scale: int | None,
    device: str | None,
    threads: int | None,
    repetitions: int,
) -> None:
    from edgec.bench.roofline import SCALE, parse_scenarios, roofline

    wanted = parse_scenarios(scenarios, SCALE if scale is None else scale)
    path = Path(artifact)
    result = roofline(
        [(path.stem, path)], say=_progress, scenarios=wanted, device=device, threads=threads,
        repetitions=repetitions,
    )  # fmt: skip
    _show(result, output, report)


def _show(result: dict[str, Any], output: str, report: Path | None) -> None:
    from edgec.bench.report import present, write_report

    if output == "md":
        page = present(result, output=None, report=report)
    else:
        print(json.dumps(result, indent=2))
        page = write_report(report, [result]) if report else None
    if page:
        _progress(f"{page}")


def _progress(text: str) -> None:
    from edgec.cli.text import stderr

    stderr().print(text, style="dim", soft_wrap=True, highlight=False, markup=False)


def parse_tests(n_prompt: str, n_gen: str, pg: list[str], n_depth: str) -> list[BenchTest]:
    """The tests that the flags ask for, in llama-bench's order.

    Raises:
        InputError: a value that is no list of numbers, or nothing to do.
    """
    from edgec.runtime.bench import BenchTest

    tests = []
    for depth in _numbers("-d", n_depth):
        tests += [BenchTest(n, 0, depth) for n in _numbers("-p", n_prompt) if n]
        tests += [BenchTest(0, n, depth) for n in _numbers("-n", n_gen) if n]
        for pair in pg:
            both = _numbers("-pg", pair)
            if len(both) != 2:
                raise InputError(f"-pg {pair}: must be two numbers, such as 512,128")
            tests.append(BenchTest(both[0], both[1], depth))
    if not tests:
        raise InputError("nothing to measure", "give -p, -n or -pg a number above 0")
    return tests


def _numbers(flag: str, text: str) -> list[int]:
    try:
        numbers = [int(item) for item in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0:
        raise InputError(f"{flag} {text}: must be numbers with commas, such as 128,512")
    return numbers


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
