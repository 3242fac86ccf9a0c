"""Renders chat templates in a process of its own, which can be stopped.

Templates come with models and are programs: jinja's sandbox keeps them from Python, but not from
looping for ever or filling the memory. A thread that does so cannot be stopped, a process can.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from edgec.errors import InputError

__all__ = ["TemplateFailed", "TemplateProcess"]

MEMORY = 512 * 2**20
"""Bytes of address space of the process."""
LONGEST = 16 * 2**20
"""Bytes of the longest answer."""
START = 60.0
"""Seconds until the process must have started, on a slow device under load."""


class TemplateFailed(InputError):
    """A chat template that did not refuse the messages, but took too long or broke."""


class TemplateProcess:
    """Templates with limits.

    The process starts with the first use, and stays until `close`, until this object goes, or until
    the program ends. Any thread may use it; one rendering runs at a time.

    Args:
        templates: Jinja texts by name.
    """

    def __init__(self, templates: Mapping[str, str]) -> None:
        self._hello = {"templates": dict(templates), "memory": MEMORY}
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._owner = 0
        self._end: weakref.finalize[Any, Any] | None = None

    def render(self, template: str, variables: str, seconds: float) -> str:
        """The text of the named template.

        Args:
            template: Its name.
            variables: A JSON object.
            seconds: How long it may take.

        Raises:
            InputError: the template does not parse, or refuses the variables.
            TemplateFailed: it takes longer than `seconds`, or breaks.
        """
        head = json.dumps({"template": template, "seconds": seconds})
        line = f'{head[:-1]}, "variables": {variables}}}\n'.encode()
        with self._lock:
            answer = self._ask(line, seconds)
        if "refused" in answer:
            raise InputError(answer["refused"])
        if "text" in answer:
            return answer["text"]
        raise _failed(answer["failed"])

    def start(self) -> None:
        """Starts the process, so that the first rendering need not wait for it."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """Ends the process. A later rendering starts another."""
        with self._lock:
            self._stop()

    def _ask(self, line: bytes, seconds: float) -> dict[str, str]:
        channel = self._running()
        try:
            return _exchange(channel, line, seconds)
        except TimeoutError:
            what = f"takes longer than {seconds:g} s"
        except (OSError, ValueError):
            what = "broke its process, or gave too much text"
        except BaseException:  # its answer would be taken for another's
            self._stop()
            raise
        self._stop()
        raise _failed(what)

    def _running(self) -> socket.socket:
        if self._socket is not None and self._owner == os.getpid():
            return self._socket
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(
                    # -P: a file of the working directory is not taken for a module.
                    [sys.executable, "-P", "-m", "edgec.template_worker"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for whoever waits
                )
        except OSError as error:
            ours.close()
            raise _failed(f"cannot be given a process: {error.strerror}") from None
        self._socket, self._owner = ours, os.getpid()  # a fork has to start its own
        self._end = weakref.finalize(self, _end, process, ours)
        try:
            _exchange(ours, json.dumps(self._hello).encode() + b"\n", START)
        except (OSError, ValueError):
            self._stop()
            raise _failed("cannot be given a process") from None
        except BaseException:
            self._stop()
            raise
        return ours

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._socket = self._end = None


def _exchange(channel: socket.socket, line: bytes, seconds: float) -> dict[str, str]:
    """Sends a line and reads the one that answers it, all within `seconds`."""
    deadline = time.monotonic() + seconds
    channel.settimeout(seconds)
    channel.sendall(line)
    answer = bytearray()
    while not answer.endswith(b"\n"):
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        received = channel.recv(2**20)
        if not received or len(answer) + len(received) > LONGEST:
            raise ValueError("no whole answer")
        answer += received
    parsed: dict[str, str] = json.loads(answer)
    return parsed


def _end(process: subprocess.Popen[bytes], channel: socket.socket) -> None:
    channel.close()
    process.kill()
    process.wait()


def _failed(what: str) -> TemplateFailed:
    return TemplateFailed(f"the model's chat template failed: {what}")
