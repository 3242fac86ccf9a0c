"""The index of the documents lists every page, and links in documents lead to files."""

from __future__ import annotations

import re
from pathlib import Path

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def links_of(document: Path) -> set[Path]:
    """The files that a Markdown file links to, as absolute paths."""
    prose = FENCED.sub("", document.read_text(encoding="utf-8"))
    found = LINK.findall(prose)
    return {(document.parent / link).resolve() for link in found}


def test_every_page_is_in_the_index(repository: Path) -> None:
    index = repository / "docs" / "README.md"
    pages = set((repository / "docs").glob("*.md")) - {index}
    assert not sorted(page.name for page in pages - links_of(index))


def test_every_link_leads_to_a_file(repository: Path) -> None:
    documents = [
        path
        for pattern in ("*.md", "docs/*.md", "benchmarks/*.md")
        for path in repository.glob(pattern)
    ]
    missing = [
        f"{document.name}: {link}"
        for document in documents
        for link in links_of(document)
        if not link.exists()
    ]
    assert not missing
