"""Streams text as it is generated, and ends at a stop string.

    python examples/02_stream.py

Each chunk has the text that one token completed. The last one has the result: why the generation
ended, and what it took.
"""

import sys
from pathlib import Path

import edgec

ARTIFACT = Path("build/demo/tiny-dense.edgec")
if not ARTIFACT.is_dir():
    sys.exit(f"{ARTIFACT} is missing; run: python examples/01_generate.py")

session = edgec.Session(ARTIFACT)
stream = session.stream(
    "And God said",
    max_new_tokens=64,
    temperature=0.8,
    seed=1,
    stop_strings=[".", "?"],
)
for chunk in stream:
    print(chunk.text, end="", flush=True)
print()

result = chunk.result
print(f"{result.finish_reason} after {result.usage.completion_tokens} tokens")
print(f"first token after {result.timings.time_to_first_token_ms:.0f} ms")
