"""One JSON line for each request, on stdout, written by a thread: a full pipe stops no stream."""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
from typing import Any, TextIO

__all__ = ["RequestLog"]


class RequestLog:
    """Writes records as JSON lines. When the reader does not keep up, records are dropped and
    the next one that is written has their number as `dropped`."""

    def __init__(self, stream: TextIO | None = None, size: int = 4096) -> None:
        self._stream = stream or sys.stdout
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(size)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="edgec-log", daemon=True)
        self._thread.start()

    def write(self, record: dict[str, Any]) -> None:
        """Takes a record; never waits."""
        if self._dropped:
            record = {**record, "dropped": self._dropped}
        try:
            self._queue.put_nowait(record)
            self._dropped = 0
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Writes what is there, for a second at most."""
        try:
            self._queue.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(timeout=1)

    def _write(self) -> None:
        said = False
        while (record := self._queue.get()) is not None:
            try:
                # In ASCII: what clients say of themselves must not control a terminal.
                self._stream.write(json.dumps(record) + "\n")
                self._stream.flush()
            except (OSError, ValueError) as error:  # nobody reads, or the disk is full
                self._dropped += 1
                if not said:
                    said = True
                    logging.getLogger("edgec.serve").warning(
                        "the log of requests cannot be written: %s", error
                    )
