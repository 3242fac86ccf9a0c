"""An engine that runs for long holds no more memory than one that has just begun."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations

import pytest

from edgec.artifact import Artifact

REQUESTS, SAMPLE, WARM_UP = 20_000, 500, 7_000

# In a process of its own: what pytest keeps is not the engine's.
SCRIPT = """
import gc, json, sys
from pathlib import Path
import edgec

def anonymous():
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

folder, requests, sample = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
samples = []
with edgec.Engine(folder, memory=4 * 10**6) as engine:
    for number in range(0, requests, 10):
        batch = []
        for at in range(number, number + 10):
            prompt = [1 + (at * 7 + i) % 250 for i in range(1 + at % 40)]
            options = {"temperature": 1.0, "seed": at} if at % 5 == 0 else {}
            name = f"s{at % 50}" if at % 7 == 0 else None
            batch.append(engine.submit(prompt, max_new_tokens=4, session_id=name, **options))
            if at % 3 == 0:
                batch[-1].cancel()
        for request in batch:
            request.result()
        if (number + 10) % sample == 0:
            samples.append((number + 10, anonymous()))
    stats = engine.stats()
assert stats.requests == stats.completed + stats.cancelled == requests, stats
assert stats.cancelled > requests / 4, stats
print(json.dumps(samples))
"""


@pytest.mark.slow
@pytest.mark.alone
def test_memory_does_not_grow_with_requests(compile_once: Callable[..., Artifact]) -> None:
    """20,000 generations, a third of them cancelled: at most 10 bytes each."""
    artifact = compile_once("interrupts", "bundled:tiny-dense", target="cpu", layers=1, ctx_size=64)
    command = [sys.executable, "-c", SCRIPT, str(artifact.path), str(REQUESTS), str(SAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    samples = [(at, size) for at, size in json.loads(done.stdout) if at > WARM_UP]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(samples, 2)]
    # Theil and Sen's: what the system gives in pages makes steps.
    assert statistics.median(slopes) <= 10, samples
