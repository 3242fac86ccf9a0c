"""Runs one artifact in a process of its own: its memory is its own, and others can be stopped.

    python -m edgec.bench.worker ARTIFACT DEVICE THREADS

One JSON object a line: first what was loaded, then an answer to each request
`{"prompt": [ids], "steps": n, "depth": n}`. The time is that of the prompt and the greedy steps
after it, until the last token is read back.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgec.errors import EdgecError

__all__ = ["Worker"]


class Worker:
    """The other side: starts the process, and lets it run only while it is asked something.

    Args:
        artifact: Its folder.
        device: As for `Session`.
        threads: CPU worker threads; passed over by other devices.

    Raises:
        EdgecError: what the artifact or the device refused, in their words.
    """

    def __init__(self, artifact: Path, device: str, threads: int | None) -> None:
        command = [sys.executable, "-m", "edgec.bench.worker", str(artifact), device]
        self.process = subprocess.Popen(
            [*command, str(threads or 0)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.loaded = self._answer()
        self.process.send_signal(signal.SIGSTOP)

    def measure(self, prompt: list[int], steps: int = 0, depth: int = 0) -> dict[str, Any]:
        """`seconds`, `prompt_seconds` of them, the last greedy `token`, `peak_rss_mb` so far."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        request = {"prompt": prompt, "steps": steps, "depth": depth}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the process died"}
        if "error" in answer:
            self.process.kill()
            self.process.wait()
            raise EdgecError(str(answer["error"]))
        return answer


def _serve(artifact: str, device: str, threads: int) -> None:
    from edgec.artifact import Artifact
    from edgec.runtime.bench import decode
    from edgec.runtime.drivers import on_host
    from edgec.runtime.program import select_program
    from edgec.runtime.session import Session

    started = time.perf_counter()
    opened = Artifact.open(artifact)
    given = threads if threads and on_host(select_program(opened, device).driver) else None
    session = Session(opened, device=device, threads=given)
    sequence = session.sequence
    _say(load_seconds=time.perf_counter() - started, peak_rss_mb=_peak())
    for line in sys.stdin:
        request = json.loads(line)
        session.reset()
        if request["depth"]:
            sequence.extend([1 + i % 200 for i in range(request["depth"])]).token()
        token = 1
        start = time.perf_counter()
        if request["prompt"]:
            token = sequence.extend(request["prompt"]).token()
        prompted = time.perf_counter() - start
        token = decode(sequence, [1 + i % 200 for i in range(request["steps"])]) or token
        seconds = time.perf_counter() - start
        _say(seconds=seconds, prompt_seconds=prompted, token=token, peak_rss_mb=_peak())


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def _peak() -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    try:
        _serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except (EdgecError, OSError) as failure:
        _say(error=str(failure))
        sys.stdout.flush()
        os._exit(1)
