"""Results as one HTML page that needs nothing beside it: tables as text, plots as inline SVG."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from edgec.bench.plots import save_figures
from edgec.bench.tables import machine_line, tables_of, to_html, to_markdown

__all__ = ["present", "write_report"]

_TITLES = {
    "padding": "Padding ablation",
    "roofline": "Roofline",
    "peers": "Beside its peers",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 74rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; background: #fff; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e4e4e4;
         white-space: nowrap; }
th.left, td.left { text-align: left; white-space: normal; min-width: 7rem; }
th { border-bottom: 1px solid #555; vertical-align: bottom; white-space: normal; }
figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption, .machine { color: #555; font-size: 13px; } ul { padding-left: 1.2rem; font-size: 14px; }
"""


def present(result: dict[str, Any], *, output: Path | None, report: Path | None) -> Path | None:
    """Prints a result's tables, and writes it to `output` and as a page into `report`.

    Returns:
        The page, if one was asked for.

    Raises:
        InputError: As `write_report`.
    """
    print(machine_line(result), end="\n\n")
    print(to_markdown(tables_of(result)))
    if output:
        output.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return write_report(report, [result]) if report else None


def write_report(folder: Path, results: list[dict[str, Any]]) -> Path:
    """Writes `index.html` into `folder`, and beside it each result as JSON and its plots.

    Returns:
        The page.

    Raises:
        InputError: matplotlib is not installed, or a result is of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[str] = []
    seen: Counter[str] = Counter()
    for result in results:
        kind = result.get("benchmark", "")
        tables = tables_of(result)
        seen[kind] += 1
        suffix = f"-{seen[kind]}" if seen[kind] > 1 else ""
        (folder / f"{kind}{suffix}.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
        parts.append(
            f"<h2>{_TITLES[kind]}</h2>\n<p class=machine>{_text(machine_line(result))}</p>"
        )
        for number, (file, caption) in enumerate(save_figures(result, folder, suffix)):
            drawing = _inline(file.read_text("utf-8"), f"{kind}{suffix}{number}")
            parts.append(f"<figure>{drawing}<figcaption>{_text(caption)}</figcaption></figure>")
        parts += [to_html(table) for table in tables]
    page = folder / "index.html"
    page.write_text(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width"><title>edgec: measurements</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>edgec: measurements</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n",
        "utf-8",
    )
    return page


def _text(text: str) -> str:
    return html.escape(text)


def _inline(svg: str, prefix: str) -> str:
    """An SVG file's element, with names of its own: those of other drawings are on the page too."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace('href="#', f'href="#{prefix}-')
    return svg.replace("url(#", f"url(#{prefix}-")
