"""The three standard streams, whatever the shell made of them, and text that comes through them.

Text is UTF-8. What comes in and is not, in an argument, a file or stdin, is refused with the place
of the byte: a model would be asked something else. What goes out to a stream that cannot hold it
is written as an escape such as `\\u00e9`, as Python does on stderr.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from edgec.errors import InputError

__all__ = ["checked_text", "open_streams", "read_stdin", "read_text"]

_MOST = 64 << 20
"""Characters of a file or of stdin; beyond any context, and `/dev/zero` ends."""


class _Closed(io.TextIOBase):
    """Stands for a stdout that the shell has closed."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, "closed, so that nothing can be written to it", "stdout")


def open_streams() -> None:
    """Makes `sys.stdin`, `stdout` and `stderr` streams that never fail by their encoding."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free one; else a file opened later would get what is printed.
            os.open(os.devnull, os.O_RDWR)
    given: Any = sys  # None where a stream was closed, which its type does not say
    if given.stdin is None:
        given.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - for good
    if given.stdout is None:
        given.stdout = _Closed()
    if given.stderr is None:
        given.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good
    if isinstance(given.stdin, io.TextIOWrapper):
        ascii_only = codecs.lookup(given.stdin.encoding).name == "ascii"
        encoding = "utf-8" if ascii_only else given.stdin.encoding
        given.stdin.reconfigure(encoding=encoding, errors="surrogateescape")
    for stream in (given.stdout, given.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def checked_text(text: str, what: str) -> str:
    """The text, if it is one: bytes that are not UTF-8 stand in it as lone surrogates.

    Raises:
        InputError: says in `what` such a byte is, and where.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        place = len(text[: error.start].encode("utf-8"))
        raise InputError(
            f"{what}: byte {place} is not UTF-8", "convert it, for example with iconv -t UTF-8"
        ) from None
    return text


def read_text(file: Path, what: str) -> str:
    """A file's text, without a byte order mark.

    Raises:
        InputError: it cannot be read, is not UTF-8, or is very large.
    """
    try:
        with file.open(encoding="utf-8", errors="surrogateescape") as stream:
            return _read(stream, what)
    except (OSError, ValueError) as error:
        raise InputError(f"{what}: cannot be read: {error}") from None


def read_stdin() -> str:
    """All of stdin, as `read_text`."""
    return _read(sys.stdin, "stdin")


def _read(stream: TextIO, what: str) -> str:
    text = stream.read(_MOST + 1)
    if len(text) > _MOST:
        raise InputError(f"{what}: more than {_MOST >> 20} million characters")
    return checked_text(text.removeprefix("\ufeff"), what)
