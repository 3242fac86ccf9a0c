"""Draws docs/picture.svg, the way of a model through edgec, from picture.toml.

    python scripts/picture.py

The same text gives the same file, byte for byte; a test compares them.
"""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_suffix(".toml")
PICTURE = Path(__file__).parents[1] / "docs" / "picture.svg"

WIDTH, MARGIN, PAD = 880, 24, 20
"""Pixels: of the picture, around areas, and within areas and cards."""
CHIP, GAP, ARROW = 24, 8, 36
"""Pixels: a chip's height, the space between chips, and an arrow's length."""
CHARACTER = 7.4
"""Pixels of a character in a chip, in the widest of the fonts."""

STYLE = """\
  svg { --page: #ffffff; --area: #f2f5f9; --card: #ffffff; --line: #d3dae3; --text: #1b2430;
    --soft: #5a6675; --chip: #e8f0fd; --chip-text: #1d4f9f; --arrow: #8a97a8;
    --way: #b4530a; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #0f141a; --area: #171e27; --card: #1f2833; --line: #364352; --text: #e8edf3;
      --soft: #9ca9b8; --chip: #24395a; --chip-text: #b5d0ff; --arrow: #708094;
      --way: #f2a65a; } }
  text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
    fill: var(--text); }
  .title { font-size: 18px; font-weight: 600; }
  .area { font-weight: 600; }
  .soft { fill: var(--soft); }
  .note { font-size: 13px; fill: var(--soft); }
  .code { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
  .way { fill: var(--way); }
  .chip { fill: var(--chip-text); }
  .end { text-anchor: end; }
  .middle { text-anchor: middle; }"""


def text(x: float, y: float, kind: str, content: str) -> str:
    """A line of text; `kind` is its classes in `STYLE`."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(content, quote=False)}</text>'


def box(x: float, y: float, width: float, height: float, radius: int, colours: str) -> str:
    """A rectangle with round corners."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}"'
        f' style="{colours}"/>'
    )


def arrow(y: float, note: str) -> list[str]:
    """An arrow down from `y`, with what goes along it."""
    x, tip = MARGIN + 2 * PAD + 8, y + ARROW - 6
    path = f"M{x:g} {y + 6:g}V{tip:g}m-5-6l5 6l5-6"
    line = f'<path d="{path}" fill="none" stroke="var(--arrow)" stroke-width="1.8"/>'
    return [line, text(x + 16, y + ARROW / 2 + 5, "note", note)]


def card(card: dict[str, Any], y: float) -> tuple[list[str], float]:
    """A card at `y`, and its height."""
    left, right = MARGIN + PAD, WIDTH - MARGIN - PAD
    inner = left + PAD
    drawn = [
        text(inner, y + 32, "title", card["title"]),
        text(inner + 130, y + 31, "code soft", card["where"]),
        text(right - PAD, y + 31, "code way end", card["example"]),
        text(inner, y + 56, "soft", card["text"]),
    ]
    x, top = inner, y + 72
    for name in card["chips"]:
        width = round(len(name) * CHARACTER) + 16
        if x + width > right - PAD:
            x, top = inner, top + CHIP + GAP
        drawn.append(box(x, top, width, CHIP, 6, "fill: var(--chip)"))
        drawn.append(text(x + width / 2, top + 16, "code chip middle", name))
        x += width + GAP
    height = top + CHIP + 18 - y
    frame = box(left, y, right - left, height, 10, "fill: var(--card); stroke: var(--line)")
    return [frame, *drawn], height


def area(area: dict[str, Any], y: float) -> tuple[list[str], float]:
    """An area at `y`: its heading, and its cards with arrows between them; and its height."""
    start, drawn = y, []
    if "title" in area:
        drawn.append(text(MARGIN + PAD, y + 29, "area", area["title"]))
        drawn.append(text(WIDTH - MARGIN - PAD, y + 29, "note end", area["needs"]))
        y += 44
    for entry in area["card"]:
        one, height = card(entry, y)
        drawn += one
        y += height
        if entry["next"]:
            drawn += arrow(y, entry["next"])
            y += ARROW
    if "title" in area:
        y += PAD
        frame = box(MARGIN, start, WIDTH - 2 * MARGIN, y - start, 14, "fill: var(--area)")
        drawn.insert(0, frame)
    return drawn, y - start


def picture(source: str) -> str:
    """The SVG for a TOML text."""
    areas = tomllib.loads(source)["area"]
    y, drawn = float(MARGIN), []
    for entry in areas:
        one, height = area(entry, y)
        drawn += one
        y += height
        if entry["next"]:
            drawn += arrow(y, entry["next"])
            y += ARROW
    height = y + MARGIN
    title = " → ".join(entry["title"] for a in areas for entry in a["card"])
    size = f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{title}</title>",
        f"<style>\n{STYLE}\n</style>",
        box(0, 0, WIDTH, height, 16, "fill: var(--page)"),
        *drawn,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
