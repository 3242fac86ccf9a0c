"""Each name in the glossary's code column is in the code."""

from __future__ import annotations

import re
from pathlib import Path


def test_names_exist(repository: Path) -> None:
    rows = re.findall(
        r"^\| (?!word|---).* \| .* \| (.*) \|$",
        (repository / "docs" / "glossary.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    names = {name for row in rows for name in re.findall(r"`(.+?)`", row)}
    assert len(names) >= 30
    code: set[str] = set()
    for folder in ("compiler", "models", "passes", "runtime", "src/edgec"):
        for path in (repository / folder).rglob("*.py"):
            code |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    assert not names - code


def test_one_row_a_word(repository: Path) -> None:
    text = (repository / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| ([^|]+?) \|", text, re.MULTILINE)
    assert len(words) == len(set(words))
