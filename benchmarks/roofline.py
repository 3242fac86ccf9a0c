"""Artifacts under the roof of this machine: by scenario, by precision, by depth.

    python benchmarks/roofline.py preset:qwen3-0.6b --precisions f16,int8,int4 --report out/
    python benchmarks/roofline.py preset:qwen3-0.6b --precisions f16 --layers 4,8,16,28

Compiles one artifact for each precision and number of layers, and measures all of them under the
same ceilings. `edgec bench ARTIFACT --roofline` does it for one artifact that is there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import edgec
from edgec.bench.report import present
from edgec.bench.roofline import SCALE, parse_scenarios, roofline
from edgec.errors import EdgecError, InputError

PRECISIONS = {"f32": "none", "f16": "none", "bf16": "none", "int8": "int8", "int4": "int4"}


def compile_all(
    model: str, precisions: list[str], layers: list[int | None], context: int, target: str,
    folder: Path,
) -> list[tuple[str, Path]]:  # fmt: skip
    """Label and artifact of each combination."""
    artifacts = []
    for precision in precisions:
        if precision not in PRECISIONS:
            raise InputError(f"precision '{precision}': must be one of {', '.join(PRECISIONS)}")
        for count in layers:
            label = precision + (f", {count} layers" if len(layers) > 1 else "")
            say(f"compile {label}")
            output = folder / f"{precision}-{count or 'all'}.edgec"
            quantize = PRECISIONS[precision]
            edgec.compile(
                model, output=output, target=target, layers=count, ctx_size=context,
                quantize=quantize, dtype=precision if quantize == "none" else "f16",
            )  # fmt: skip
            artifacts.append((label, output))
    return artifacts


def main() -> int:
    """Compiles, measures, prints tables; exit code 2 for bad input."""
    parser = argparse.ArgumentParser(description="The roofline of a model.", allow_abbrev=False)
    parser.add_argument("model", nargs="?", default="preset:qwen3-0.6b")
    parser.add_argument("--precisions", default="f16,int8,int4", help="of " + ", ".join(PRECISIONS))
    parser.add_argument("--layers", help="numbers of layers with commas; default all of them")
    parser.add_argument("--scenarios", default="SISO,SILO,LISO,LILO")
    parser.add_argument("--scale", type=int, default=SCALE, help="lengths are divided by it")
    parser.add_argument("--target", default="cpu", help="one target, as for edgec compile")
    parser.add_argument("-t", "--threads", type=int, help="CPU threads; default all")
    parser.add_argument("-r", "--repetitions", type=int, default=3)
    parser.add_argument("--report", type=Path, metavar="DIR", help="HTML page, plots, JSON")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    options = parser.parse_args()
    try:
        layers: list[int | None] = [None]
        if options.layers:
            layers = [int(n) for n in options.layers.split(",")]
    except ValueError:
        parser.error(f"--layers {options.layers}: must be numbers with commas")
    try:
        scenarios = parse_scenarios(options.scenarios, options.scale)
        longest = max(s.prompt + s.generated for s in scenarios)
        context = -(-longest // 32) * 32
        with tempfile.TemporaryDirectory(prefix="edgec-roofline-") as temporary:
            artifacts = compile_all(
                options.model,
                options.precisions.split(","),
                layers,
                context,
                options.target,
                Path(temporary),
            )
            result = roofline(
                artifacts,
                say=say,
                scenarios=scenarios,
                device=options.target.partition(":")[0],
                threads=options.threads,
                repetitions=options.repetitions,
            )
        if page := present(result, output=options.output, report=options.report):
            say(f"{page}")
    except EdgecError as error:
        print(f"roofline: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
