"""Time and memory of compiling and loading, and whether a larger context slows a step down.

    python benchmarks/footprint.py                         # preset:qwen3-0.6b in f16
    python benchmarks/footprint.py --large preset:qwen3-8b # also its peak memory (needs 20 GB disk)

Each figure comes from a process of its own. Peak RSS is the largest of the process and of its
children (iree-compile is one). The decode steps of the two contexts are interleaved, so that a
disturbance meets both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgec.bench.machine import describe

COMPILE = """
import json, resource, sys, time
start = time.perf_counter()
import edgec
edgec.compile(sys.argv[1], output=sys.argv[2], dtype=sys.argv[3],
              ctx_size=int(sys.argv[4]) or None, force=True)
seconds = time.perf_counter() - start
peak = max(resource.getrusage(who).ru_maxrss
           for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"seconds": seconds, "peak_rss_mb": peak / 1024}))
"""

LOAD = """
import json, sys, time
import edgec, edgec.runtime
from pathlib import Path
start = time.perf_counter()
session = edgec.Session(sys.argv[1])
ready = time.perf_counter() - start
status = Path("/proc/self/status").read_text()
rss = int(status.split("VmRSS:")[1].split()[0]) / 1024
session.prefill([1])
start = time.perf_counter()
session.decode(1)
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
memory = session.artifact.manifest.memory
print(json.dumps({"ready_seconds": ready, "rss_mb": rss, "peak_rss_after_a_step_mb": peak,
                  "weights_mb": memory.weights / 1048576,
                  "state_mb": memory.state_per_sequence / 1048576}))
"""


def run(script: str, *arguments: str) -> dict[str, Any]:
    """Runs a script in a process of its own and parses the JSON it prints last."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def step_times(paths: list[Path], depth: int, steps: int) -> list[list[float]]:
    """Seconds of decode steps at positions `depth` and on, for each artifact, interleaved."""
    import edgec

    sessions = [edgec.Session(path) for path in paths]
    times: list[list[float]] = [[] for _ in paths]
    for session in sessions:
        session.prefill([1] * depth)
        session.decode(1)
    for _ in range(steps):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.decode(1)
            taken.append(time.perf_counter() - start)
    return times


def context_ratio(model: str, dtype: str, layers: int, folder: Path) -> dict[str, Any]:
    """Decode at one depth with a context of 512 and of 8192 tokens."""
    import edgec

    paths = []
    for context in (512, 8192):
        paths.append(folder / f"{context}.edgec")
        edgec.compile(model, output=paths[-1], dtype=dtype, ctx_size=context, layers=layers)
    small, large = step_times(paths, depth=100, steps=60)
    medians = [statistics.median(times) * 1e3 for times in (small, large)]
    return {
        "layers": layers,
        "depth": 100,
        "ms_context_512": medians[0],
        "ms_context_8192": medians[1],
        "ratio": medians[1] / medians[0],
        "samples": 60,
    }


def main() -> None:
    """Measures what the options ask for and writes or prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="preset:qwen3-0.6b")
    parser.add_argument("--dtype", default="f16")
    parser.add_argument("--layers", type=int, default=4, help="of the context comparison")
    parser.add_argument("--large", help="a second model, compiled in bf16 for its peak memory")
    parser.add_argument("-o", "--output", type=Path, help="JSON file (default: print)")
    options = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "footprint", "machine": describe()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        result["context"] = context_ratio(options.model, options.dtype, options.layers, folder)
        artifact = str(folder / "model.edgec")
        compiled = run(COMPILE, options.model, artifact, options.dtype, "0")
        result["compile"] = {"model": options.model, "dtype": options.dtype} | compiled
        loads = [run(LOAD, artifact) for _ in range(5)]
        result["load"] = {k: statistics.median(x[k] for x in loads) for k in loads[0]}
        if options.large:
            compiled = run(COMPILE, options.large, str(folder / "large.edgec"), "bf16", "0")
            result["compile_large"] = {"model": options.large, "dtype": "bf16"} | compiled
    text = json.dumps(result, indent=2) + "\n"
    if options.output:
        options.output.write_text(text, "utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
