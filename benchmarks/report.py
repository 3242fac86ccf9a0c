"""One page and the plots of results that were written before, of any of the benchmarks.

python benchmarks/report.py out/ benchmarks/results/*.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from edgec.bench.report import write_report
from edgec.errors import EdgecError


def main() -> int:
    """Exit code 2 for a file that is no result."""
    parser = argparse.ArgumentParser(description="A page of results.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path, nargs="+")
    options = parser.parse_args()
    try:
        results = [json.loads(path.read_text("utf-8")) for path in options.results]
        print(write_report(options.folder, results))
    except (EdgecError, OSError, ValueError) as error:
        print(f"report: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
