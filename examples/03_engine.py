"""Runs several sequences in one engine: the weights are in memory once, the state is bounded.

    python examples/03_engine.py

The engine computes them in turn on a thread of its own, so every stream moves on. The last prompt
begins as the first one does: what the engine still holds of it is not computed again.
"""

import sys
from pathlib import Path

import edgec

ARTIFACT = Path("build/demo/tiny-dense.edgec")
if not ARTIFACT.is_dir():
    sys.exit(f"{ARTIFACT} is missing; run: python examples/01_generate.py")

LONG = "In the beginning God created the heaven and the earth. " * 4

with edgec.Engine(ARTIFACT, memory=64_000_000) as engine:
    prompts = [LONG, "And the king", "The children of Israel"]
    requests = [engine.submit(p, max_new_tokens=24, temperature=0) for p in prompts]
    for request in requests:
        print(repr(request.result().text))

    again = engine.submit(LONG + "And", max_new_tokens=24, temperature=0).result()
    print(repr(again.text))
    print(f"{again.usage.cached_tokens} of {again.usage.prompt_tokens} prompt tokens were cached")

    stats = engine.stats()
    print(
        f"{stats.completed} requests, state {stats.state_bytes:,} of {stats.state_budget:,} bytes"
    )
