"""Refuses docstrings whose first line is no sentence of its own.

    python scripts/check_docstrings.py

Reads the docstrings of modules, classes, functions and attributes, and every `help=` text, in the
Python files that git knows, and the comment at the head of each C file.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OPENING = re.compile(
    r"(Of|What|That|As|Which|Where|Whose|Whom|So|Such|Those)\b"
    r"|(Has|Have|Had|Is|Are) (not|no)\b"
    r"|There (is|are) (not|no)\b"
)
"""Words that need the identifier, or the line before, to make a sentence."""

BODIES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, attribute docstring and help text."""
    for node in ast.walk(tree):
        if isinstance(node, BODIES):
            for statement in node.body:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    yield statement.lineno, str(statement.value.value)
        elif isinstance(node, ast.keyword) and node.arg == "help":
            for part in ast.walk(node.value):
                if isinstance(part, ast.Constant):
                    yield part.lineno, str(part.value)
                    break


def comment(source: str) -> Iterator[tuple[int, str]]:
    """The comment at the head of a C file."""
    if source.startswith(("//", "/*")):
        yield 1, source[2:]


def main() -> int:
    """Prints each line that is refused; 1 if there is one."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    refused = 0
    for path in map(Path, listed.splitlines()):
        if path.suffix not in (".py", ".c", ".h") or not path.is_file():
            continue
        source = path.read_text(encoding="utf-8")
        found = texts(ast.parse(source)) if path.suffix == ".py" else comment(source)
        for line, text in found:
            if OPENING.match(text.strip()):
                print(f"{path}:{line}: opens as no sentence does: {text.strip().splitlines()[0]}")
                refused += 1
    return min(refused, 1)


if __name__ == "__main__":
    sys.exit(main())
