"""Text that arrives in pieces, on a terminal: no word is broken at the right edge."""

from __future__ import annotations

import shutil
from typing import TextIO

__all__ = ["WordWrap"]


class WordWrap:
    """Writes text to a terminal at once, and takes a word that reaches the edge to the next line.

    Control characters, other than new lines and tabs, are written as escapes: a model could command
    the terminal with them.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._column = 0
        self._word = ""
        """The part of the last word that is on the line."""

    def write(self, text: str) -> None:
        """Writes a piece."""
        width = shutil.get_terminal_size().columns
        for character in text:
            self._write(character, width)
        self._stream.flush()

    def _write(self, character: str, width: int) -> None:
        from rich.cells import cell_len

        if character == "\n":
            self._column, self._word = 0, ""
        elif character in " \t":
            step = 1 if character == " " else 8 - self._column % 8
            if self._column + step > width:  # the edge stands for it
                self._word = ""
                return
            self._column, self._word = self._column + step, ""
        elif _is_control(character):
            for escaped in character.encode("unicode_escape").decode():
                self._write(escaped, width)
            return
        else:
            cells = cell_len(character)
            if self._column + cells > width:
                self._next_line()
            self._column += cells
            # Wide characters are words by themselves, between which lines may end.
            self._word = "" if cells == 2 else self._word + character
        self._stream.write(character)

    def _next_line(self) -> None:
        from rich.cells import cell_len

        length = cell_len(self._word)
        if 0 < length < self._column:
            # From the left: where the cursor is once a line is full differs between terminals.
            start = self._column - length
            self._stream.write(f"\r\x1b[{start}C\x1b[K\n{self._word}")
            self._column = length
        else:
            self._stream.write("\n")
            self._column, self._word = 0, ""


def _is_control(character: str) -> bool:
    return ord(character) < 32 or 0x7F <= ord(character) < 0xA0
