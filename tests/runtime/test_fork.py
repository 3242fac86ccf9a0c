"""A fork of a process that has loaded a model: it is told so, and does not wait for ever."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgec.artifact import Artifact

SCRIPT = """
import os, sys
import edgec
from edgec.errors import DeviceError

folder = sys.argv[1]
session, engine = edgec.Session(folder), edgec.Engine(folder)
expected = session.generate("In the", max_new_tokens=3, temperature=0).text
stream = session.share().stream("In the", max_new_tokens=9, temperature=0)
next(stream)
request = engine.submit("In the", max_new_tokens=400, ignore_eos=True)
child = os.fork()
if child == 0:
    for act in (
        lambda: next(stream),
        lambda: session.generate("In the", max_new_tokens=3),
        lambda: session.share(),
        lambda: session.reset(),
        lambda: engine.submit("In the", max_new_tokens=3),
        lambda: engine.save("a", "x"),
        lambda: request.result(),
        lambda: [chunk for chunk in request],
        lambda: edgec.Session(folder),
        lambda: edgec.Engine(folder),
    ):
        try:
            act()
        except DeviceError as error:
            assert "forked" in str(error) and "load the model after the fork" in str(error)
        else:
            raise AssertionError("not refused")
    engine.close()
    session.close()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert session.generate("In the", max_new_tokens=3, temperature=0).text == expected
engine.close()
"""

AFTER_IMPORT = """
import os, sys
import edgec, edgec.runtime
child = os.fork()
if child == 0:
    assert edgec.Session(sys.argv[1]).generate("In the", max_new_tokens=3).tokens
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


@pytest.mark.parametrize("script", [SCRIPT, AFTER_IMPORT], ids=["loaded", "imported"])
def test_a_fork(tiny_dense_artifact: Artifact, script: str) -> None:
    command = [sys.executable, "-c", script, str(tiny_dense_artifact.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
