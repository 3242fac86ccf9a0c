"""Numbers as a person reads them, and the consoles they are printed on."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "count",
    "duration",
    "layers_together",
    "print_json",
    "printable",
    "size",
    "stderr",
    "stdout",
]


def size(number: int) -> str:
    """Bytes in decimal units: 1234567 is `1.2 MB`."""
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"))


def count(number: int) -> str:
    """A number of parameters: 596049920 is `596 M`."""
    return _scaled(number, ("", "k", "M", "B", "T")).rstrip()


def duration(seconds: float) -> str:
    """`0.42 s`, `12.3 s` or `2 min 5 s`."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def layers_together(names: list[str]) -> str:
    """Names of parameters, those that differ in their layer only as one and a count."""
    counts = Counter(re.sub(r"\.\d+\.", ".*.", name, count=1) for name in names)
    return ", ".join(name + (f" ({many})" if many > 1 else "") for name, many in counts.items())


def print_json(value: Any) -> None:
    """Prints one JSON object on stdout, with escapes where its encoding lacks a character."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text)


def printable(text: str, keep: str = "") -> str:
    """The text with control characters as escapes: they would command the terminal.

    Args:
        text: Of a file of strangers, or of a message about one.
        keep: Characters that stay, such as newlines.
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def stdout() -> Console:
    """A console for results."""
    from rich.console import Console

    return Console(highlight=False)


def stderr() -> Console:
    """A console for progress, timings and remarks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _scaled(number: float, units: tuple[str, ...]) -> str:
    if number >= 10**18:  # no size, and beyond floats where a file says so
        return f"over {10**18 // 1000 ** (len(units) - 1)} {units[-1]}"
    power = 0
    while number >= 999.5 and power < len(units) - 1:
        number, power = number / 1000, power + 1
    digits = 1 if power and number < 99.95 else 0
    return f"{number:.{digits}f} {units[power]}"
