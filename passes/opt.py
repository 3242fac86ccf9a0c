"""`edgec-opt`: runs named passes on an MLIR file, as mlir-opt does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from iree.compiler import ir

from edgec.passes.pipeline import Pipeline, parse_module
from edgec.passes.registry import PASSES

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on stderr when the pipeline or the IR is at fault."""
    parser = argparse.ArgumentParser(
        prog="edgec-opt", description=__doc__, epilog=f"passes: {', '.join(PASSES)}"
    )
    parser.add_argument("input", help="MLIR file, - for standard input")
    parser.add_argument(
        "-p", "--passes", required=True, help="comma-separated, options as name{key=value}"
    )
    parser.add_argument("-o", "--output", default="-", help="file, - for standard output")
    options = parser.parse_args(arguments)
    try:
        text = sys.stdin.read() if options.input == "-" else Path(options.input).read_text("utf-8")
        with ir.Context():
            module = parse_module(text)
            Pipeline.parse(options.passes).run(module)
            result = str(module)
        if options.output == "-":
            sys.stdout.write(result)
        else:
            Path(options.output).write_text(result, "utf-8")
    except (OSError, ValueError) as error:
        print(f"edgec-opt: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
