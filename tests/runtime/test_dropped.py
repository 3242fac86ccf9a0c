"""A program that is dropped while its calls are queued."""

from __future__ import annotations

import subprocess
import sys

from edgec.artifact import Artifact

SCRIPT = """
import sys
import numpy as np
from edgec.artifact import Artifact
from edgec.runtime.program import LoadedProgram

artifact = Artifact.open(sys.argv[1])
for _ in range(100):
    program = LoadedProgram(artifact)
    state = program.create_state()
    output = program.prefill(np.zeros((1, 32), np.int32), 0, 5, state)
    del program, state, output
    # Python's objects are made and freed while the call ends in a thread of IREE's.
    assert [str(i) for i in range(20000)][-1] == "19999"
print("done")
"""


def test_a_program_dropped_with_a_queued_call(tiny_dense_artifact: Artifact) -> None:
    """In a process of its own: what went wrong once ended it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_dense_artifact.path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
