"""Lists in the documents are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from edgec.compiler.targets import TARGETS
from edgec.compiler.ukernels import LEVELS
from edgec.options import STAGE_NAMES
from edgec.runtime import contract


def rows_of(page: Path, heading: str) -> list[str]:
    """The first cells of the table under a heading, without the table's head."""
    section = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    table = re.search(r"(?:^\|.*\|\n)+", section, re.MULTILINE)
    assert table, f"{page}: no table under {heading}"
    return re.findall(r"^\| `(\w+)`", table[0], re.MULTILINE)


def test_state_kinds(repository: Path) -> None:
    assert set(rows_of(repository / "docs/state.md", "Kinds")) == set(contract._KINDS)


def test_stages(repository: Path) -> None:
    page = repository / "docs/architecture.md"
    assert rows_of(page, "The stages of a compile") == list(STAGE_NAMES)


def test_targets(repository: Path) -> None:
    page = (repository / "docs/targets.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)[: len(TARGETS)] == list(TARGETS)


def test_kernel_levels(repository: Path) -> None:
    assert rows_of(repository / "docs/performance.md", "Kernels") == list(LEVELS)
    assert rows_of(repository / "docs/quantisation.md", "Products") == list(LEVELS)


def test_every_guide_is_in_contributing(repository: Path) -> None:
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    guides = sorted(path.name for path in (repository / "docs").glob("add-a*.md"))
    assert not [name for name in guides if f"(docs/{name})" not in text]
