"""One engine in a process of its own, measured on request: JSON lines in, JSON lines out.

    PYTHON worker.py ENGINE MODEL THREADS CONTEXT

Runs in the engine's own environment, so it imports the standard library and that engine only. The
answers go to the file that was standard output; whatever the engine prints goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Loads the engine, says so, and answers requests until the input ends."""
    name, model, threads, context = sys.argv[1:5]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        started = time.perf_counter()
        module = importlib.import_module(name)
        imported = time.perf_counter()
        engine = module.Engine(model, int(threads), int(context))
        loaded = time.perf_counter()
        engine.measure(list(range(1, 33)), [], 0)
        first = time.perf_counter()
        answer(
            import_seconds=imported - started,
            load_seconds=loaded - imported,
            load_to_first_token_seconds=first - imported,
            version=module.version(),
            settings=engine.settings,
            vocabulary=engine.vocabulary,
        )
        for line in sys.stdin:
            request = json.loads(line)
            seconds = engine.measure(request["prompt"], request["steps"], request["depth"])
            answer(seconds=seconds, peak_rss_mb=peak())
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}".splitlines()[0])
        sys.exit(1)


def peak() -> float:
    """The largest resident memory of this process so far, in MB; mapped weights count."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_steps(engine: object, prompt: list[int], steps: list[int], depth: int) -> float:
    """Seconds of a prompt and decode steps after `depth` other tokens, which are not timed.

    For engines with `reset()`, `prefill(tokens)` and `decode(token)`, each of which returns when
    the result is there.
    """
    engine.reset()
    if depth:
        engine.prefill([1 + i % 200 for i in range(depth)])
    started = time.perf_counter()
    if prompt:
        engine.prefill(prompt)
    for token in steps:
        engine.decode(token)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
