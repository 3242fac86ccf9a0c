"""Asks a driver for its devices, in a process of its own: `python -m edgec.cli.probe DRIVER`.

A broken driver can end the process that loads it, so `doctor` runs this file and reads one JSON
object from its stdout: `{"devices": [...]}` or `{"error": "..."}`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

__all__ = ["probe"]


def probe(driver: str, timeout: float = 60) -> dict[str, Any]:
    """The devices of an IREE driver, or why there are none."""
    command = [sys.executable, "-m", "edgec.cli.probe", driver]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"devices": [], "error": f"no answer in {timeout:.0f} s"}
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"devices": [], "error": f"the driver failed (exit {done.returncode}): {last}"}
    assert isinstance(answer, dict)
    return answer


def _main(driver: str) -> None:
    import iree.runtime

    try:
        if driver not in iree.runtime.query_available_drivers():
            raise RuntimeError(f"this iree-base-runtime has no {driver} driver")
        found = iree.runtime.get_driver(driver).query_available_devices()
        devices = [{"path": str(d["path"]), "name": str(d["name"])} for d in found]
        print(json.dumps({"devices": devices, "error": ""}))
    except Exception as error:  # the bindings raise several kinds
        print(json.dumps({"devices": [], "error": _shorten(str(error))}))


def _shorten(message: str) -> str:
    """The sentence of a driver's error that says what is missing: the first after its status."""
    line = message.splitlines()[0]
    _, status, sentence = line.partition("; ")
    return sentence.partition("; ")[0] if status else line


if __name__ == "__main__":
    _main(sys.argv[1])
