"""Reading a person's questions: lines of a terminal or a pipe, pasted text, several lines at once.

- Pasted text is one question however many lines it has: terminals mark it (bracketed paste), and
  GNU readline knows the marks once it is told to.
- Three quotes begin several lines and end them; a line that ends in a backslash goes on in the
  next; Alt-Enter puts a new line into the one that is being typed.
- What was asked is kept for the next start, each question whole, in a file of the user's alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

from edgec.cli.streams import checked_text

__all__ = ["History", "Questions", "history_file"]

_FENCE = '"""'
_KEPT = 1000  # questions
_LARGEST = 4 << 20  # bytes of the file; one that is larger is cut to half of that


class Questions:
    """Gives the questions of stdin one after the other.

    Args:
        history: Where questions are kept, at a terminal.
    """

    def __init__(self, history: History | None = None) -> None:
        self.at_terminal = sys.stdin.isatty()
        self._history = history if self.at_terminal else None
        self._readline: Any = None
        if self.at_terminal:
            with contextlib.suppress(ImportError):
                import readline

                self._readline = readline
        if self._readline is not None:
            self._readline.set_auto_history(False)  # a question is one entry, not each line
            self._readline.parse_and_bind("set enable-bracketed-paste on")
            self._readline.parse_and_bind(r'"\e\C-m": "\C-v\C-j"')  # Alt-Enter
            self._readline.parse_and_bind(r'"\e\C-j": "\C-v\C-j"')
            for question in self._history.read() if self._history else ():
                self._readline.add_history(question)

    def next(self) -> str:
        """The next question, without spaces around it; it may be empty.

        Raises:
            EOFError: there is none.
            KeyboardInterrupt: the person has thrown it away.
            InputError: it is not UTF-8.
        """
        text = checked_text(self._read().strip(), "the question")
        if text and self._readline is not None:
            self._readline.add_history(text)
        if text and self._history is not None:
            self._history.add(text)
        return text

    def _read(self) -> str:
        line = self._line(">>> ")
        if "\n" in line:
            return line  # pasted: as it is
        if line.lstrip().startswith(_FENCE):
            return self._fenced(line.lstrip().removeprefix(_FENCE))
        lines = [line]
        with contextlib.suppress(EOFError):
            while lines[-1].endswith("\\"):
                lines[-1] = lines[-1][:-1]
                lines.append(self._line("... "))
        return "\n".join(lines)

    def _fenced(self, first: str) -> str:
        lines = [first]
        with contextlib.suppress(EOFError):
            while not lines[-1].rstrip().endswith(_FENCE):
                lines.append(self._line("... "))
        lines[-1] = lines[-1].rstrip().removesuffix(_FENCE)
        return "\n".join(lines)

    def _line(self, prompt: str) -> str:
        return input(prompt if self.at_terminal else "")


def history_file() -> Path | None:
    """The file in which the user's questions are kept; None for a user without a home."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return Path(state) / "edgec" / "chat-history.jsonl"


class History:
    """Questions in a file, a JSON string a line, that only its owner can read.

    Several programs may add to it. `trouble` says why it is not kept, where it cannot be.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.trouble = ""

    def read(self) -> list[str]:
        """The last questions, the oldest first."""
        try:
            with os.fdopen(self._open(os.O_RDONLY), encoding="utf-8", errors="replace") as stream:
                lines = stream.readlines()[-_KEPT:]
        except FileNotFoundError:
            return []
        except OSError as error:
            self.trouble = f"{self._file}: {error.strerror}"
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):  # cut short by a full disk
                question = json.loads(line)
                if isinstance(question, str):
                    found.append(question)
        return found

    def add(self, question: str) -> None:
        """Keeps a question."""
        if self.trouble:
            return
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = self._open(os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            with os.fdopen(descriptor, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(question) + "\n")
            if self._file.stat().st_size > _LARGEST:
                self._cut()
        except OSError as error:
            self.trouble = f"{self._file}: {error.strerror}"

    def _cut(self) -> None:
        lines = [json.dumps(question) for question in self.read()]
        while len(lines) > 1 and sum(map(len, lines)) > _LARGEST // 2:
            del lines[: len(lines) // 2]
        part = self._file.with_suffix(f".{os.getpid()}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.writelines(f"{line}\n" for line in lines)
        part.replace(self._file)

    def _open(self, flags: int) -> int:
        """Opens the file, if it is the user's own: no link is followed, no pipe waited for."""
        descriptor = os.open(self._file, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            os.close(descriptor)
            raise PermissionError(1, "not a file of this user's")
        if found.st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
        return descriptor
