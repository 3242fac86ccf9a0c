"""The checker of docstrings finds each place where one stands, and lets sentences pass."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

REFUSED = '''
"""What a module is."""
class A:
    """Whose class."""
    b: int = 0
    """Of a row."""
    def c(self):
        """Has not any."""
option = Option("--x", help="As --y.")
'''

PASSES = '''
"""Offsets of a row."""
class A:
    """Asks once."""
    b: int = 0
    """Thatched."""
help = "What"
'''


@pytest.mark.parametrize(("source", "lines"), [(REFUSED, [2, 4, 6, 8, 9]), (PASSES, [])])
def test_refuses_openings(repository: Path, source: str, lines: list[int]) -> None:
    path = repository / "scripts" / "check_docstrings.py"
    spec = importlib.util.spec_from_file_location("check_docstrings", path)
    assert spec is not None and spec.loader is not None
    checker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checker)
    found = checker.texts(ast.parse(source))
    assert sorted(line for line, text in found if checker.OPENING.match(text)) == lines
