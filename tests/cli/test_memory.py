"""The peak of memory counts what child processes hold."""

from __future__ import annotations

import subprocess
import sys

from edgec.cli.memory import PeakMemory


def test_counts_a_child() -> None:
    # Large against what this process itself may give back meanwhile.
    program = "import time; block = bytearray(600_000_000); time.sleep(1)"
    with PeakMemory(interval=0.05) as alone:
        pass
    with PeakMemory(interval=0.05) as memory:
        subprocess.run([sys.executable, "-c", program], check=True)
    assert alone.peak > 0
    assert 500e6 < memory.peak - alone.peak < 700e6
