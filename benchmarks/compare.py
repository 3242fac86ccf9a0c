"""The differences between two results of the same benchmark on the same machine.

    python benchmarks/compare.py OLD.json NEW.json

Prints what became faster or slower beyond noise, and exits with 1 if anything became slower. A
difference of medians is beyond noise when it exceeds both 3 % and the two spreads together (half
the interquartile range of each one's samples). Results of different machines, models,
threads or benchmarks are refused, and samples during which other processes ran are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.bench.machine import same_machine
from edgec.bench.samples import spread
from edgec.errors import InputError

LEAST = 0.03
DISTURBED = 0.2


@dataclass(frozen=True)
class Measured:
    """Samples of one thing in tokens per second."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Half the interquartile range, over the median."""
        return spread(self.samples)


def measured(result: Any) -> dict[str, Measured]:
    """Name to samples of everything that a result holds.

    Raises:
        InputError: nothing that this script knows.
    """
    if isinstance(result, list):
        found = dict(_llama_bench(result))
    else:
        kinds = {"padding": _padding, "roofline": _roofline, "peers": _peers}
        kind = result.get("benchmark")
        if kind not in kinds:
            raise InputError(f"benchmark {kind!r}: must be one of {', '.join(kinds)}")
        found = dict(kinds[kind](result))
    return {name: Measured(tuple(samples)) for name, samples in found.items() if samples}


def _llama_bench(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[float]]]:
    for row in rows:
        name = f"pp{row['n_prompt']} tg{row['n_gen']} d{row['n_depth']}"
        yield f"{row['model_type']} {name}", row["samples_ts"]


def _padding(result: dict[str, Any]) -> Iterator[tuple[str, list[float]]]:
    for target, found in result["targets"].items():
        for row in found["lengths"]:
            if row["others"] > DISTURBED:
                continue
            for arm, one in row["arms"].items():
                speeds = [row["tokens"] / seconds for seconds in one["seconds"]]
                yield f"{target} {arm} {row['tokens']}", speeds


def _roofline(result: dict[str, Any]) -> Iterator[tuple[str, list[float]]]:
    for point in result["points"]:
        if point["others"] <= DISTURBED:
            lengths = f"{point['n_prompt']}/{point['n_gen']}"
            yield f"{point['label']} {lengths} {point['phase']}", point["samples_ts"]


def _peers(result: dict[str, Any]) -> Iterator[tuple[str, list[float]]]:
    for kind, engines in result["formats"].items():
        for engine, row in engines.items():
            for test, one in row.get("tests", {}).items():
                samples = [
                    s["tokens_per_second"]
                    for s in one.get("samples", [])
                    if s["others"] <= DISTURBED
                ]
                yield f"{kind} {engine} {test}", samples


def check_comparable(old: Any, new: Any) -> None:
    """Refuses results that say nothing about each other.

    Raises:
        InputError: they differ in more than the code that was measured.
    """
    if isinstance(old, list) != isinstance(new, list):
        raise InputError("the two files hold different kinds of results")
    if isinstance(old, list):
        pairs = [("backends", "backends"), ("n_threads", "threads")]
        for key, what in pairs:
            sets = [{row.get(key) for row in rows} for rows in (old, new)]
            if sets[0] != sets[1]:
                raise InputError(f"{what} differ: {sets[0]} and {sets[1]}")
        machines = [{"cpu": rows[0].get("cpu_info")} for rows in (old, new) if rows]
        if len(machines) < 2 or None in (machines[0]["cpu"], machines[1]["cpu"]):
            raise InputError("the results do not say on which machine they were measured")
    else:
        for key in ("benchmark", "model", "device", "threads", "layers", "options"):
            if old.get(key) != new.get(key):
                raise InputError(f"{key} differs: {old.get(key)} and {new.get(key)}")
        machines = [old["machine"], new["machine"]]
    if difference := same_machine(*machines):
        raise InputError(
            f"results of different machines cannot be compared: {difference}",
            "measure both on one machine",
        )


def moved(old: dict[str, Measured], new: dict[str, Measured]) -> list[tuple[str, float, float]]:
    """Name, ratio new to old, and noise, of what moved beyond noise; the largest first."""
    found = []
    for name in old.keys() & new.keys():
        ratio = new[name].median / old[name].median
        noise = max(LEAST, old[name].spread + new[name].spread)
        if abs(ratio - 1) > noise:
            found.append((name, ratio, noise))
    return sorted(found, key=lambda one: -abs(one[1] - 1))


def main() -> int:
    """Exit code 1 when something became slower, 2 when the files cannot be compared."""
    parser = argparse.ArgumentParser(description="What moved between two results.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    try:
        old, new = (_read(path) for path in (options.old, options.new))
        check_comparable(old, new)
        before, after = measured(old), measured(new)
    except InputError as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return 2
    both = before.keys() & after.keys()
    if not both:
        print("compare: error: the results have nothing in common", file=sys.stderr)
        return 2
    changes = moved(before, after)
    for name, ratio, noise in changes:
        word = "faster" if ratio > 1 else "slower"
        print(
            f"{name}: {before[name].median:.1f} → {after[name].median:.1f} tokens/s,"
            f" {abs(ratio - 1):.0%} {word} (noise {noise:.0%})"
        )
    print(f"{len(both)} compared, {len(changes)} moved beyond noise")
    for name in sorted(before.keys() ^ after.keys()):
        print(f"only in {'OLD' if name in before else 'NEW'}: {name}")
    return 1 if any(ratio < 1 for _, ratio, _ in changes) else 0


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path}: not JSON") from None


if __name__ == "__main__":
    sys.exit(main())
