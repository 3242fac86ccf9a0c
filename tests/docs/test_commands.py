"""The commands in the documents run.

A fenced block in a shell language says what it is for after the language:

    ```sh test                      runs, and must succeed
    ```sh not-tested: needs a GPU   does not run, for this reason

A `python test` block runs too. In `console` blocks the lines after `$ ` run; the rest is output.
The blocks of a document run in order, in one temporary folder that looks like the repository.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
SHELL = {"sh", "bash", "shell", "console", "shell-session", "zsh"}
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<info>[^\n`]*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it starts, its language, its mark and its text."""

    document: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.document.relative_to(REPOSITORY)}:{self.line}"

    @property
    def tested(self) -> bool:
        return self.mark == "test" and self.language in SHELL | {"python"}

    def command(self) -> list[str]:
        """How to run it."""
        if self.language == "python":
            return [sys.executable, "-c", self.text]
        lines = self.text.splitlines()
        if self.language in ("console", "shell-session"):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]


def blocks_of(document: Path) -> list[Block]:
    """The fenced blocks of a Markdown file."""
    blocks: list[Block] = []
    opened: tuple[int, str, str] | None = None
    body: list[str] = []
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if opened is None and fence:
            opened, body = (number, fence["fence"], fence["info"].strip()), []
        elif opened and fence and fence["fence"].startswith(opened[1]) and not fence["info"]:
            language, _, mark = opened[2].partition(" ")
            text = "\n".join(body) + "\n"
            blocks.append(Block(document, opened[0], language, mark.strip(), text))
            opened = None
        else:
            body.append(line)
    assert opened is None, f"{document}:{opened[0]}: the block is not closed"
    return blocks


def folder_like_repository(folder: Path) -> None:
    """Links what the repository has at its top, and the running environment as `.venv`."""
    for entry in REPOSITORY.iterdir():
        if not entry.name.startswith(".") and entry.name != "build":
            (folder / entry.name).symlink_to(entry)
    (folder / ".venv").symlink_to(sys.prefix)


def names(documents: list[Path]) -> list[str]:
    return [str(document.relative_to(REPOSITORY)) for document in documents]


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_shell_block_says_whether_it_runs(document: Path) -> None:
    for block in blocks_of(document):
        if block.language in SHELL:
            reason = re.fullmatch(r"not-tested: \S.*", block.mark)
            assert block.mark == "test" or reason, (
                f"{block.where}: mark it `{block.language} test` or"
                f" `{block.language} not-tested: REASON`"
            )


WITH_TESTED = [d for d in DOCUMENTS if any(block.tested for block in blocks_of(d))]


@pytest.mark.compiles
@pytest.mark.parametrize("document", WITH_TESTED, ids=names(WITH_TESTED))
def test_marked_blocks_run(document: Path, tmp_path: Path) -> None:
    folder_like_repository(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in blocks_of(document):
        if not block.tested:
            continue
        done = subprocess.run(
            block.command(), cwd=tmp_path, env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        output = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert done.returncode == 0, f"{block.where} failed ({done.returncode}):\n{output}"
