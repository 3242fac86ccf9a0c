"""Measures where to pad: a model in every arm of the ablation, prompts of many lengths through all.

    python benchmarks/padding.py bundled:tiny-dense --target cpu,vulkan:llvmpipe
    python benchmarks/padding.py preset:qwen3-0.6b --layers 4 --target cpu --report out/

On a machine with a GPU but no compiler: `--compile-only` here, with `--keep DIR`, and
`--measure-only --keep DIR` there (benchmarks/gpu/README.md). `edgec bench MODEL --ablation` does
the same as the first two.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from edgec.bench.ablation import compile_arms, measure_arms
from edgec.bench.report import present
from edgec.errors import EdgecError


def main() -> int:
    """Compiles, measures, prints tables; exit code 2 for bad input."""
    parser = argparse.ArgumentParser(description="The padding ablation.", allow_abbrev=False)
    parser.add_argument("model", nargs="?", default="bundled:tiny-dense")
    parser.add_argument("--target", default="cpu", help="as for edgec compile; several with commas")
    parser.add_argument("--layers", type=int, help="the first N layers only")
    parser.add_argument("--dtype", default="f32", help="f32, f16 or bf16")
    parser.add_argument("--quantize", default="none", help="none, int8 or int4")
    parser.add_argument("-p", "--lengths", help="prompt lengths with commas")
    parser.add_argument("--arms", help="some arms only, with semicolons")
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, help="CPU threads; default all")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the artifacts stay")
    parser.add_argument("--compile-only", action="store_true")
    parser.add_argument("--measure-only", action="store_true")
    parser.add_argument("--report", type=Path, metavar="DIR", help="HTML page, plots, JSON")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    options = parser.parse_args()
    if (options.compile_only or options.measure_only) and options.keep is None:
        parser.error("--compile-only and --measure-only want --keep DIR")
    try:
        lengths = tuple(map(int, options.lengths.split(","))) if options.lengths else None
    except ValueError:
        parser.error(f"--lengths {options.lengths}: must be numbers with commas")
    try:
        with tempfile.TemporaryDirectory(prefix="edgec-padding-") as temporary:
            folder = options.keep or Path(temporary)
            if not options.measure_only:
                for target in options.target.split(","):
                    compile_arms(
                        options.model,
                        target,
                        folder / target.replace(":", "-"),
                        say,
                        lengths,
                        options.arms,
                        layers=options.layers,
                        dtype=options.dtype,
                        quantize=options.quantize,
                    )
            if options.compile_only:
                return 0
            result = measure_arms(
                folder, say=say, repetitions=options.repetitions, threads=options.threads
            )
        if page := present(result, output=options.output, report=options.report):
            say(f"{page}")
    except EdgecError as error:
        print(f"padding: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
