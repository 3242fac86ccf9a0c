"""Results as figures for a paper: vector and bitmap, in colours that all can tell apart."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.bench.tables import speedups
from edgec.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figures_of", "save_figures"]

# Okabe and Ito's colours, which remain distinct for the colour-blind.
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#B8A900"]
_FAMILIES = {"none": "#999999", "op": "#E69F00", "input": "#0072B2", "static": "#009E73"}
_FAMILY_NAMES = {
    "none": "dynamic, no padding",
    "op": "per operation",
    "input": "at the input",
    "static": "static shapes",
}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "edgec",
    "svg.fonttype": "path",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
}


def figures_of(result: dict[str, Any]) -> Iterator[tuple[str, str, Figure]]:
    """File name, caption and figure of each plot of a result.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError(
            "plots need matplotlib, which is not installed", "pip install 'edgec[bench]'"
        ) from None
    matplotlib.use("Agg")
    kinds = {"padding": _padding, "roofline": _roofline, "peers": _peers}
    with matplotlib.rc_context(_STYLE):
        yield from kinds[result["benchmark"]](result)


def save_figures(result: dict[str, Any], folder: Path, suffix: str = "") -> list[tuple[Path, str]]:
    """Writes each figure as `NAME<suffix>` in PNG and SVG; returns the SVGs with their captions."""
    import warnings

    written = []
    for plain, caption, figure in figures_of(result):
        name = plain + suffix
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure.savefig(folder / f"{name}.png", dpi=200)
            # Without the date, equal results make equal files.
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        written.append((folder / f"{name}.svg", caption))
    return written


def _figure(width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(**options)


# --- Padding -----------------------------------------------------------------------------------


def _padding(result: dict[str, Any]) -> Iterator[tuple[str, str, Figure]]:
    for target, found in result["targets"].items():
        slug = target.replace(":", "-")
        options = result["options"]
        parts = [result["model"].partition(":")[2]]
        if options.get("layers"):
            parts.append(f"{options['layers']} layers")
        if options.get("dtype"):
            parts.append(options["dtype"])
        title = f"{', '.join(parts)} on {target}"
        yield f"padding-{slug}", _padding_caption(title), _padding_bars(title, found)
        yield (
            f"padding-{slug}-lengths",
            f"{title}: prefill speed over that of 'none', medians, by the prompt's length.",
            _padding_lines(title, found),
        )


def _padding_caption(title: str) -> str:
    return (
        f"{title}: prefill speed of each arm over 'none'. Bars are geometric means over all prompt"
        " lengths of more than one token, whiskers the least and the most."
    )


def _padding_bars(title: str, found: dict[str, Any]) -> Figure:
    from matplotlib.patches import Patch

    arms = [arm for arm in found["arms"] if "error" not in arm]
    shown = [(arm, speedups(found, arm["name"], "none")) for arm in arms]
    shown = [(arm, ratios) for arm, ratios in shown if ratios]
    figure, axes = _figure(6.2, 0.9 + 0.32 * len(shown))
    for place, (arm, ratios) in enumerate(reversed(shown)):
        mean = statistics.geometric_mean(ratios)
        colour = _FAMILIES[arm["family"]]
        axes.barh(place, mean, color=colour, height=0.68)
        axes.plot([min(ratios), max(ratios)], [place, place], color="black", linewidth=0.9)
        for end in (min(ratios), max(ratios)):
            axes.plot([end, end], [place - 0.14, place + 0.14], color="black", linewidth=0.9)
        axes.annotate(
            f"{mean:.2f}×", (max(mean, *ratios), place), xytext=(5, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(shown)), [arm["name"] for arm, _ in reversed(shown)])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0)
    axes.set_xlim(right=1.12 * max(max(ratios) for _, ratios in shown))
    axes.set_xlabel("prefill speed relative to a plain dynamic length (true tokens)")
    axes.set_title(title)
    families = dict.fromkeys(arm["family"] for arm, _ in shown)
    handles = [Patch(color=_FAMILIES[f], label=_FAMILY_NAMES[f]) for f in families]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _padding_lines(title: str, found: dict[str, Any]) -> Figure:
    figure, axes = _figure(6.2, 3.8)
    styles: list[Any] = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))]
    markers = "osD^v"
    seen: dict[str, int] = {}
    for arm in found["arms"]:
        points = [
            (place, of[arm["name"]]["tokens_per_second"] / of["none"]["tokens_per_second"])
            for place, of in enumerate(row["arms"] for row in found["lengths"])
            if arm["name"] in of and "none" in of
        ]
        if not points:
            continue
        order = seen.setdefault(arm["family"], 0)
        seen[arm["family"]] += 1
        axes.plot(
            *zip(*points, strict=True), label=arm["name"], color=_FAMILIES[arm["family"]],
            linestyle=styles[order % 5], marker=markers[order % 5], markersize=4,
            linewidth=1.2,
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    lengths = [str(row["tokens"]) for row in found["lengths"]]
    axes.set_xticks(range(len(lengths)), lengths)
    axes.set_xlabel("prompt length, tokens (not to scale)")
    axes.set_ylabel("prefill speed relative to a plain dynamic length")
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_title(title)
    figure.legend(loc="outside right center")
    return figure


# --- Roofline ----------------------------------------------------------------------------------


def _roofline(result: dict[str, Any]) -> Iterator[tuple[str, str, Figure]]:
    title = _roof_title(result)
    yield (
        "roofline",
        f"{title}. {_ROOF_CAPTION}",
        _roof(title, result),
    )
    yield (
        "scenarios",
        "Tokens per second by scenario (prompt/generated), for both phases: medians.",
        _scenarios(result),
    )
    if len({point["layers"] for point in result["points"]}) > 2:
        yield "depth", "Milliseconds a token over the number of layers.", _depth(result)


_ROOF_CAPTION = (
    "Squares are prefill, circles decode; a dotted arrow leads from each to the roof above it, and"
    " a solid one from an artifact to the next in the same scenario."
)


def _roof_title(result: dict[str, Any]) -> str:
    threads = f", {result['threads']} threads" if result["threads"] else ""
    return f"{result['machine']['cpu']} ({result['device']}{threads})"


def _roof(title: str, result: dict[str, Any]) -> Figure:
    figure, axes = _figure(6.4, 4.4)
    roof, points = result["roof"], result["points"]
    low = min(0.3, *(p["intensity"] / 2 for p in points))
    high = max(p["intensity"] for p in points) * 4
    peaks = [("f32", roof["f32"])]
    peaks += [("int8", roof["int8"])] if roof["int8"] else []
    peaks += [("f16", roof["f16"])] if roof["f16"] else []
    used = {p["peak"] for p in points}
    high = max(high, *(2.5 * peak / roof["bandwidth"] for _, peak in peaks))
    for name, peak in peaks:
        ridge = peak / roof["bandwidth"]
        line = "-" if peak in used else "--"
        axes.plot([ridge, high], [peak / 1e9] * 2, color="black", linewidth=1.1, linestyle=line)
        axes.annotate(
            f"{name} {peak / 1e9:.0f} G/s", (high, peak / 1e9), xytext=(-2, 3),
            textcoords="offset points", ha="right", fontsize=8,
        )  # fmt: skip
    top = max(peak for _, peak in peaks)
    ridge = top / roof["bandwidth"]
    axes.plot(
        [low, ridge], [low * roof["bandwidth"] / 1e9, top / 1e9], color="black", linewidth=1.1
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    labels = list(dict.fromkeys(p["label"] for p in points))
    colours = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(labels)}
    for point in points:
        x, y = point["intensity"], point["performance"] / 1e9
        above = min(point["peak"], roof["bandwidth"] * x) / 1e9
        axes.annotate(
            "", (x, above), (x, y),
            arrowprops={"arrowstyle": "->", "linestyle": ":", "color": "#888888", "lw": 0.7},
        )  # fmt: skip
        axes.plot(
            x, y, marker="s" if point["phase"] == "prefill" else "o", markersize=5,
            color=colours[point["label"]], linestyle="none", markeredgecolor="white",
            markeredgewidth=0.5,
        )  # fmt: skip
    _moves(axes, points, labels)
    bottom = min(p["performance"] for p in points) / 1e9
    axes.set_ylim(min(bottom, low * roof["bandwidth"] / 1e9) / 2, top / 1e9 * 2.2)
    axes.set_xlim(low, high)
    axes.annotate(
        f"read {roof['bandwidth'] / 1e9:.1f} GB/s",
        (low * 1.4, low * 1.4 * roof["bandwidth"] / 1e9), xytext=(0, 8),
        textcoords="offset points", fontsize=8, rotation=_slope(axes, figure),
        rotation_mode="anchor",
    )  # fmt: skip
    axes.set_xlabel("operational intensity, FLOP per byte")
    axes.set_ylabel("performance, GFLOP/s")
    axes.grid(alpha=0.2, linewidth=0.5, which="major")
    axes.set_title(title)
    _roof_legend(figure, colours)
    return figure


def _moves(axes: Axes, points: list[dict[str, Any]], labels: list[str]) -> None:
    """From each artifact to the next, in the same scenario and phase."""
    where = {(p["label"], p["scenario"], p["phase"]): p for p in points}
    for one, other in itertools.pairwise(labels):
        for (label, scenario, phase), start in where.items():
            end = where.get((other, scenario, phase))
            if label == one and end:
                axes.annotate(
                    "", (end["intensity"], end["performance"] / 1e9),
                    (start["intensity"], start["performance"] / 1e9),
                    arrowprops={"arrowstyle": "-|>", "color": "#444444", "lw": 0.8, "alpha": 0.7},
                )  # fmt: skip


def _slope(axes: Axes, figure: Figure) -> float:
    """The angle on paper of a line of slope one in the logarithmic axes, about."""
    import math

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    width, height = figure.get_size_inches() * (0.86, 0.72)
    across, up = math.log10(right / left), math.log10(top / bottom)
    return math.degrees(math.atan2(height / up, width / across))


def _roof_legend(figure: Figure, colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=colour, label=label) for label, colour in colours.items()]
    for phase, marker in (("prefill", "s"), ("decode", "o")):
        handles.append(
            Line2D([], [], marker=marker, color="#777777", linestyle="none", label=phase)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))


def _scenarios(result: dict[str, Any]) -> Figure:
    points = result["points"]
    labels = list(dict.fromkeys(p["label"] for p in points))
    names = list(dict.fromkeys(p["scenario"] for p in points))
    lengths = {p["scenario"]: f"{p['scenario']}\n{p['n_prompt']}/{p['n_gen']}" for p in points}
    figure, both = _figure(6.4, 3.0, ncols=2)
    for axes, phase in zip(both, ("prefill", "decode"), strict=True):
        groups = {
            label: [
                next(
                    p["avg_ts"]
                    for p in points
                    if (p["label"], p["scenario"], p["phase"]) == (label, name, phase)
                )
                for name in names
            ]
            for label in labels
        }
        _grouped(axes, [lengths[n] for n in names], groups)
        axes.set_title(phase)
    both[0].set_ylabel("tokens per second")
    handles, texts = both[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4)
    return figure


def _depth(result: dict[str, Any]) -> Figure:
    figure, axes = _figure(4.6, 3.2)
    points = result["points"]
    kinds = dict.fromkeys((p["scenario"], p["phase"], p["weights"]) for p in points)
    for number, kind in enumerate(kinds):
        mine = [p for p in points if (p["scenario"], p["phase"], p["weights"]) == kind]
        mine.sort(key=lambda p: p["layers"])
        if len({p["layers"] for p in mine}) < 2:
            continue
        marker = "s" if kind[1] == "prefill" else "o"
        axes.plot(
            [p["layers"] for p in mine], [1e3 / p["avg_ts"] for p in mine], marker=marker,
            markersize=4, color=_COLOURS[number % len(_COLOURS)], label=" ".join(kind),
        )  # fmt: skip
    axes.set_xlabel("layers")
    axes.set_ylabel("milliseconds per token")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25, linewidth=0.5)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


# --- Peers -------------------------------------------------------------------------------------


def _peers(result: dict[str, Any]) -> Iterator[tuple[str, str, Figure]]:
    for kind, engines in result["formats"].items():
        present = {name: row for name, row in engines.items() if "absent" not in row}
        if not present:
            continue
        figure, both = _figure(6.6, 3.2, ncols=2, width_ratios=[3, 2])
        for axes, start, what in zip(both, ("pp", "tg"), ("prefill", "decode"), strict=True):
            tests = [test for test in result["tests"] if test.startswith(start)]
            groups = {
                f"{name} ({row['weights']})": [
                    row["tests"].get(test, {}).get("median", 0.0) for test in tests
                ]
                for name, row in present.items()
            }
            _grouped(axes, tests, groups)
            axes.set_title(what)
        both[0].set_ylabel("tokens per second")
        handles, texts = both[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside lower center", ncols=2)
        name = result["model"].partition(":")[2]
        caption = f"{name}, {kind}, {result['threads']} threads: medians of interleaved runs."
        yield f"peers-{kind}", caption, figure


def _grouped(axes: Axes, names: list[str], groups: dict[str, list[float]]) -> None:
    """Bars side by side for each name, one colour for each group."""
    width = 0.82 / len(groups)
    for number, (label, values) in enumerate(groups.items()):
        places = [i + (number - (len(groups) - 1) / 2) * width for i in range(len(names))]
        bars = axes.bar(
            places, values, width * 0.94, label=label, color=_COLOURS[number % len(_COLOURS)]
        )
        texts = [f"{v:.0f}" if v >= 10 else f"{v:.1f}" if v else "" for v in values]
        axes.bar_label(bars, texts, fontsize=6, padding=1)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
