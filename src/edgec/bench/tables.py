"""Results as tables, which the terminal shows as Markdown and the report as HTML."""

from __future__ import annotations

import html
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from edgec.errors import InputError

__all__ = ["Table", "machine_line", "tables_of", "to_html", "to_markdown"]

DISTURBED = 0.2
"""Cores that other processes kept busy during a sample, from which on it is marked."""


@dataclass(frozen=True)
class Table:
    """Cells as text; `left` columns are aligned left. `notes` stand below."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    left: int = 1


def tables_of(result: dict[str, Any]) -> list[Table]:
    """The tables of any result of `edgec.bench` or `benchmarks/`.

    Raises:
        InputError: a result of something else.
    """
    kinds = {"padding": _padding, "roofline": _roofline, "peers": _peers}
    kind = result.get("benchmark")
    if kind not in kinds:
        raise InputError(f"benchmark {kind!r}: must be one of {', '.join(kinds)}")
    return kinds[kind](result)


def machine_line(result: dict[str, Any]) -> str:
    """The machine and the method of a measurement, in one line."""
    machine = result["machine"]
    versions = machine["versions"]
    load = machine["load_average"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB"
        f" · edgec {versions['edgec']} ({machine['commit']}), IREE {versions['iree-base-runtime']}"
        f" · {machine['time'][:16].replace('T', ' ')} · load average at the start {load:.1f}"
    )


def to_markdown(tables: list[Table]) -> str:
    """All tables, each with its title and notes."""
    lines = []
    for table in tables:
        lines += [f"### {table.title}", ""]
        rule = ["---"] * table.left + ["---:"] * (len(table.heads) - table.left)
        for cells in (table.heads, rule, *table.rows):
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *(f"- {note}" for note in table.notes)]
        lines += [""] if table.notes else []
    return "\n".join(lines)


def to_html(table: Table) -> str:
    """One table, with its title and notes."""

    def row(cells: list[str], tag: str) -> str:
        inside = "".join(
            f"<{tag}{'' if i >= table.left else ' class=left'}>{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{inside}</tr>"

    body = "\n".join(row(cells, "td") for cells in table.rows)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return (
        f"<h3>{html.escape(table.title)}</h3>\n<div class=wide><table><thead>"
        f"{row(table.heads, 'th')}</thead>\n<tbody>{body}</tbody></table></div>\n"
        + (f"<ul>{notes}</ul>\n" if notes else "")
    )


# --- Padding -----------------------------------------------------------------------------------


def _padding(result: dict[str, Any]) -> list[Table]:
    tables = []
    for target, found in result["targets"].items():
        names = [arm["name"] for arm in found["arms"]]
        tables.append(_ratios(target, found))
        for key, what in (
            ("tokens_per_second", "true tokens per second"),
            ("padded_per_second", "padded tokens per second"),
        ):
            rows = []
            for row in found["lengths"]:
                cells = [_speed(row["arms"].get(name), key) for name in names]
                mark = "*" * (row["others"] > DISTURBED)
                rows.append([f"{row['tokens']}{mark}", *cells])
            notes = ["Median, and half the interquartile range of the samples."]
            if any(row["others"] > DISTURBED for row in found["lengths"]):
                notes.append("`*`: other processes ran meanwhile.")
            tables.append(Table(f"{target}: {what}", ["prompt", *names], rows, notes))
        tables += [_cost_of_arms(target, found), _pipelines(target, found)]
    return tables


def speedups(found: dict[str, Any], name: str, over: str, least: int = 2) -> list[float]:
    """Speed of one arm over another's for each prompt length of at least `least` tokens."""
    ratios = []
    for row in found["lengths"]:
        mine, other = row["arms"].get(name), row["arms"].get(over)
        if mine and other and row["tokens"] >= least:
            ratios.append(other["median_seconds"] / mine["median_seconds"])
    return ratios


def _ratios(target: str, found: dict[str, Any]) -> Table:
    rows, notes = [], []
    for arm in found["arms"]:
        name = arm["name"]
        if "error" in arm:
            rows.append([name, arm["about"], "failed", "–", "–"])
            notes.append(f"{name}: {arm['error']}")
            continue
        over = speedups(found, name, "none")
        ceiling = speedups(found, name, "static")
        rows.append(
            [
                name,
                arm["about"],
                f"{statistics.geometric_mean(over):.2f}" if over else "–",
                f"{min(over):.2f} – {max(over):.2f}" if over else "–",
                f"{statistics.geometric_mean(ceiling):.2f}" if ceiling else "–",
            ]
        )
        if arm["weak"]:
            notes.append(f"{name} is a weak baseline here: {arm['weak']}.")
    if not all(row["agree"] for row in found["lengths"]):
        notes.append("The arms disagree about the next token of a prompt.")
    notes.append("Geometric means over the prompts of more than one token, in true tokens.")
    heads = ["arm", "what it does", "× none", "least – most", "× static"]
    return Table(f"{target}: speed of prefill by arm", heads, rows, notes, left=2)


def _speed(row: dict[str, Any] | None, key: str) -> str:
    if row is None:
        return "–"
    return f"{row[key]:.0f} ± {row['spread'] * 100:.0f} %"


def _cost_of_arms(target: str, found: dict[str, Any]) -> Table:
    rows = []
    for arm in found["arms"]:
        if "error" in arm:
            continue
        counts = arm["dispatches"]
        prefill = sorted(n for f, n in counts.items() if f.startswith("prefill"))
        span = f"{prefill[0]}" if prefill[0] == prefill[-1] else f"{prefill[0]}–{prefill[-1]}"
        rows.append(
            [
                arm["name"],
                f"{arm['compile_seconds']:.1f} s",
                f"{arm['program_bytes'] / 1e3:.0f} kB",
                span,
                str(counts.get("decode", "–")),
                f"{arm.get('peak_rss_mb', math.nan):.0f} MB",
            ]
        )
    heads = ["arm", "iree-compile", "program", "dispatches of a prefill", "of a step", "peak RSS"]
    return Table(f"{target}: what an arm costs", heads, rows)


def _pipelines(target: str, found: dict[str, Any]) -> Table:
    """Contractions of a prefill by what code generation chose; equal choices in one row."""
    rows = []
    for arm in found["arms"]:
        if "error" in arm or arm["program_of"]:
            continue
        groups: dict[tuple[str, str], list[str]] = {}
        for one in arm["contractions"]:
            if one["name"].startswith("prefill"):
                short = one["name"].partition("_dispatch_")[2].partition("_")[2]
                short = short.removeprefix("matmul_like_").removeprefix("batch_matmul_like_")
                groups.setdefault((one["pipeline"], one["tiles"]), []).append(short)
        for (pipeline, tiles), names in groups.items():
            some = sorted(set(names))
            more = f" and {len(some) - 3} more" if len(some) > 3 else ""
            shapes = ", ".join(some[:3]) + more
            rows.append([arm["name"], shapes, pipeline, tiles or "–"])
    heads = ["arm", "contractions of prefill", "pipeline", "tiles"]
    return Table(f"{target}: what code generation chose", heads, rows, left=4)


# --- Roofline ----------------------------------------------------------------------------------


def _roofline(result: dict[str, Any]) -> list[Table]:
    ceilings = [
        [
            roof["device"],
            str(roof["threads"] or "–"),
            f"{roof['bandwidth'] / 1e9:.1f} GB/s",
            f"{roof['f32'] / 1e9:.0f} GFLOP/s",
            f"{roof['int8'] / 1e9:.0f} GOP/s" if roof["int8"] else "–",
            f"{roof['f16'] / 1e9:.0f} GFLOP/s" if roof["f16"] else "–",
        ]
        for roof in result["ceilings"]
    ]
    rows = [
        [
            point["label"],
            f"{point['scenario']} {point['n_prompt']}/{point['n_gen']}",
            point["phase"],
            f"{point['avg_ts']:.1f}" + "*" * (point["others"] > DISTURBED),
            f"{point['intensity']:.2f}",
            f"{point['performance'] / 1e9:.1f}",
            f"{point['bandwidth'] / 1e9:.1f}",
            f"{point['share_of_roof']:.0%}",
            point["regime"],
            f"{point['inference_potential']:.1f}",
        ]
        for point in result["points"]
    ]
    heads = [
        "artifact", "scenario", "phase", "tokens/s", "FLOP/byte", "GFLOP/s", "GB/s", "of the roof",
        "bound by", "Φ",
    ]  # fmt: skip
    notes = [*result["verdict"]]
    notes.append("Φ, the distance to the ridge, is comparable among points bound by the same.")
    if any(point["others"] > DISTURBED for point in result["points"]):
        notes.append("`*`: other processes ran meanwhile.")
    about = [result["roof"]["method"]]
    # Results from before there were several have none.
    if reads := [roof["bandwidth"] / 1e9 for roof in result.get("roof_samples", [])]:
        about.append(
            f"The roof is the best of {len(reads)} measurements, at the start and after each"
            f" artifact: read {min(reads):.1f} to {max(reads):.1f} GB/s."
        )
    return [
        Table(
            "Ceilings", ["device", "threads", "read", "f32", "int8", "f16"], ceilings, about,
        ),
        Table("Under the roof", heads, rows, notes, left=3),
    ]  # fmt: skip


# --- Peers -------------------------------------------------------------------------------------


def _peers(result: dict[str, Any]) -> list[Table]:
    tables = []
    tests = result["tests"]
    for kind, engines in result["formats"].items():
        rows, notes = [], []
        for name, row in engines.items():
            if "absent" in row:
                notes.append(f"{name} is absent: {row['absent']}.")
                continue
            loads = row.get("load_to_first_token_seconds", [])
            rows.append(
                [
                    name,
                    row["weights"],
                    f"{row['model_bytes'] * 8 / result['parameters']:.1f}",
                    *(_test(row["tests"].get(test, {})) for test in tests),
                    f"{statistics.median(loads):.2f}" if loads else "–",
                    f"{row.get('peak_rss_mb', 0):.0f}",
                ]
            )
        ratios = []
        for test in tests:
            speeds = {
                name: row.get("tests", {}).get(test, {}).get("median")
                for name, row in engines.items()
            }
            own = speeds.pop("edgec", None)
            others = [speed for speed in speeds.values() if speed]
            ratios.append(f"{own / max(others):.2f}" if own and others else "–")
        rows.append(["edgec ÷ best peer", "", "", *ratios, "", ""])
        if any(t.get("disturbed") for e in engines.values() for t in e.get("tests", {}).values()):
            notes.append("`*`: other processes ran during a sample, also when it was repeated.")
        heads = ["engine", "weights", "bits", *tests, "to first token, s", "peak RSS, MB"]
        title = f"{result['model']}, {kind}, {result['threads']} threads, tokens per second"
        tables.append(Table(title, heads, rows, notes, left=2))
    return tables


def _test(test: dict[str, Any]) -> str:
    if "median" not in test:
        return "failed" if "error" in test else "–"
    mark = "*" * bool(test["disturbed"])
    return f"{test['median']:.1f}{mark} ± {test['spread'] * 100:.0f} %"
