"""`edgec chat` at a terminal: pasted text, several lines, history, words at the right edge."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgec.artifact import Artifact
from edgec.cli.questions import History
from edgec.cli.wrap import WordWrap

FAKE = """
import edgec.runtime
from edgec.runtime import GenerationConfig, GenerationResult, StreamChunk, Timings, Usage

class Session:
    def __init__(self, artifact, device=None, threads=None):
        self.model, self.defaults = self, GenerationConfig()
    def stream(self, prompt, **options):
        yield StreamChunk(f"asked {prompt[-1]['content']!r}", 0)
    def reset(self):
        pass

edgec.runtime.Session = Session
from edgec.cli import main
main()
"""


class Terminal:
    """`edgec chat` in a pseudo-terminal, and what it has shown."""

    def __init__(self, folder: Path, state: Path, *flags: str) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", FAKE, "chat", str(folder), *flags],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "XDG_STATE_HOME": str(state), "TERM": "xterm", "COLUMNS": "200"},
        )  # fmt: skip
        os.close(slave)
        self.shown = ""
        self.wait_for(">>> ")

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Reads until `text` is shown; gives what was shown since the last call, and forgets it."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            ready, _, _ = select.select([self._master], [], [], end - time.monotonic())
            assert ready, self.shown
            self.shown += os.read(self._master, 65536).decode()
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, text: str) -> str:
        """Types, and gives what was answered."""
        os.write(self._master, text.encode())
        self.wait_for("asked ")
        answer = self.wait_for("\r\n")
        self.wait_for(">>> ")
        return answer

    def paste(self, text: str) -> None:
        """Terminals that were asked to mark pasted text do so; Enter is a carriage return."""
        marked = f"\x1b[200~{text}\x1b[201~".replace("\n", "\r")
        os.write(self._master, marked.encode())

    def rest(self) -> None:
        """Gives it the moment between showing a prompt and waiting for a key or a signal."""
        time.sleep(0.5)

    def close(self) -> None:
        self.rest()
        os.write(self._master, b"\x04")
        try:
            assert self._process.wait(30) == 0
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._master)


@pytest.fixture
def terminal(hand_made: Artifact, tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_terminal(*flags: str) -> Terminal:
        opened.append(Terminal(hand_made.path, tmp_path / "state", *flags))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one._process.kill()


def test_at_a_terminal(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    """Paste, several lines, and history over a restart, all as a person would."""
    first = terminal()
    first.paste("one\ntwo\n/help\nthree")
    assert first.type("\r") == r"'one\ntwo\n/help\nthree'"
    assert first.type("four\x1b\rfive\r") == r"'four\nfive'"
    assert first.type('"""six\rseven"""\r') == r"'six\nseven'"
    assert first.type("\x1b[A\r") == r"'six\nseven'"
    first.close()
    file = tmp_path / "state" / "edgec" / "chat-history.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    again = terminal()
    assert again.type("\x1b[A\x1b[A\x1b[A\r") == r"'four\nfive'"
    again.close()
    kept = file.read_bytes()
    silent = terminal("--no-history")
    assert silent.type("secret\r") == "'secret'"
    assert silent.type("\x1b[A\r") == "'secret'"
    silent.close()
    assert file.read_bytes() == kept


def test_history(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "history"
    history = History(file)
    assert history.read() == []
    for question in ("one", "two\nlines", "é 😀", "\x1b[31m"):
        history.add(question)
    with file.open("a") as stream:
        stream.write('"cut sho\n5\n\n[1]\n"last"\n')
    file.chmod(0o644)
    assert History(file).read() == ["one", "two\nlines", "é 😀", "\x1b[31m", "last"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not history.trouble


def test_history_does_not_grow(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for number in range(12):
        history.add(f"{number} " + "x" * 1_000_000)
    assert (tmp_path / "history").stat().st_size < 5 << 20
    assert history.read()[-1].startswith("11 x")
    assert [path.name for path in tmp_path.iterdir()] == ["history"]


@pytest.mark.parametrize("plant", ["link", "pipe", "folder", "no folder"])
def test_history_follows_nothing_and_waits_for_nothing(tmp_path: Path, plant: str) -> None:
    precious, file = tmp_path / "precious", tmp_path / "history"
    precious.write_text("years of work")
    if plant == "link":
        file.symlink_to(precious)
    elif plant == "pipe":
        os.mkfifo(file)
    elif plant == "folder":
        file.mkdir()
    else:
        file = precious / "history"
    history = History(file)
    assert history.read() == []
    history.add("secret")
    assert history.trouble.startswith(f"{file}: ")
    assert precious.read_text() == "years of work"


class Screen:
    """A terminal's screen of some width: it wraps late, and knows three commands."""

    def __init__(self, width: int) -> None:
        self.width, self.column = width, 0
        self.lines: list[list[str]] = [[]]

    def feed(self, text: str) -> None:
        for command, number, character in re.findall(r"\x1b\[((\d*)[CK])|(.|\n)", text):
            if command.endswith("C"):
                self.column += int(number or 1)
            elif command:
                del self.lines[-1][self.column :]
            elif character == "\r":
                self.column = 0
            elif character == "\n":
                self.lines.append([])
                self.column = 0
            else:
                wide = 2 if ord(character) > 0x2E80 else 1
                if self.column + wide > self.width:
                    self.lines.append([])
                    self.column = 0
                line = self.lines[-1]
                line += [" "] * (self.column - len(line))
                line[self.column : self.column + wide] = [character, ""][:wide]
                self.column += wide

    def text(self) -> list[str]:
        return ["".join(line).rstrip() for line in self.lines]


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("the quick brown fox", ["the quick", "brown fox"]),
        ("the quicker brown", ["the", "quicker", "brown"]),
        ("1234567890 12", ["1234567890", "12"]),
        ("12345678901234", ["1234567890", "1234"]),
        ("ab 12345678901234", ["ab", "1234567890", "1234"]),
        ("1234567890", ["1234567890"]),
        ("123456789 0", ["123456789", "0"]),
        ("12345 7890 x", ["12345 7890", "x"]),
        ("a\nb c\n\nd", ["a", "b c", "", "d"]),
        ("漢字漢字漢字漢字", ["漢字漢字漢", "字漢字"]),
        ("a 漢字漢字漢字漢", ["a 漢字漢字", "漢字漢"]),
        ("a\x1b[2Jb", [r"a\x1b[2Jb"]),
        ("", [""]),
    ],
)  # fmt: skip
def test_words_stay_whole(
    monkeypatch: pytest.MonkeyPatch, text: str, lines: list[str], piece: int
) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    screen, output = Screen(10), io.StringIO()
    wrap = WordWrap(output)
    for start in range(0, len(text), piece):
        wrap.write(text[start : start + piece])
    screen.feed(output.getvalue())
    assert screen.text() == lines


def test_a_signal_while_several_lines_are_typed(terminal: Callable[..., Terminal]) -> None:
    one = terminal()
    os.write(one._master, b'"""secret\r')
    one.wait_for("... ")
    one.rest()
    os.killpg(one._process.pid, signal.SIGINT)
    one.wait_for("leaves")
    one.wait_for(">>> ")
    assert one.type("hi\r") == "'hi'"
    one.close()
