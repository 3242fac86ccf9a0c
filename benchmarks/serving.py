"""Many requests on one engine: memory that does not grow, batched decode, time of follow-ups.

    python benchmarks/serving.py ARTIFACT                       # all of them, as JSON
    python benchmarks/serving.py ARTIFACT --requests 10000      # the long run: a third is cancelled

Compile the artifact with `--batch 1,4` to see what batching gives. Rates of one and of four
sequences are measured by turns, so that a disturbance meets both; their ratio is the median of the
rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

from edgec import Engine

GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def many(engine: Engine, count: int, vocabulary: int) -> dict[str, Any]:
    """Short requests, 16 at a time, every third cancelled midway."""
    picks = random.Random(0)
    samples = []
    first = min(500, count // 2)
    for start in range(0, count, 16):
        requests = []
        for number in range(start, min(start + 16, count)):
            prompt = [picks.randrange(vocabulary) for _ in range(picks.randint(1, 40))]
            requests.append(engine.submit(prompt, max_new_tokens=8, **GREEDY))
            if number % 3 == 0:
                next(requests[-1])
                requests[-1].cancel()
        for request in requests:
            request.result()
        if start >= first:
            samples.append(resident())
    stats = engine.stats()
    begin, end = statistics.median(samples[:10]), statistics.median(samples[-10:])
    return {
        "requests": count,
        "cancelled": stats.cancelled,
        "rss_mb_after_first": begin / 1e6,
        "rss_mb_at_end": end / 1e6,
        "growth": end / begin - 1,
        "sequences_created": stats.sequences_created,
        "sequences_retired": stats.sequences_retired,
        "inactive": stats.inactive,
    }


def rate(engine: Engine, clients: int, tokens: int) -> float:
    """Tokens per second of all clients together, from the first token of the slowest."""
    prompts = [[7 + client] * 16 for client in range(clients)]
    options = GREEDY | {"max_new_tokens": tokens, "cache_prompt": False}
    requests = [engine.submit(prompt, **options) for prompt in prompts]
    for request in requests:
        next(request)
    start = time.perf_counter()
    for request in requests:
        request.result()
    return clients * (tokens - 1) / (time.perf_counter() - start)


def batching(engine: Engine, rounds: int, tokens: int) -> dict[str, Any]:
    """Decode of one sequence against four, by turns."""
    rates = [(rate(engine, 1, tokens), rate(engine, 4, tokens)) for _ in range(rounds)]
    return {
        "one_tokens_per_second": statistics.median(one for one, _ in rates),
        "four_tokens_per_second": statistics.median(four for _, four in rates),
        "ratio": statistics.median(four / one for one, four in rates),
    }


def follow_up(engine: Engine, length: int, more: int, rounds: int) -> dict[str, Any]:
    """Time to the first token after `more` new tokens, against computing all of them."""
    times = []
    for number in range(rounds):
        prompt = [11 + number] * length
        options = GREEDY | {"max_new_tokens": 2}
        engine.submit(prompt, **options).result()
        longer = prompt + [5] * more
        warm = engine.submit(longer, **options).result()
        cold = engine.submit(longer, **options, cache_prompt=False).result()
        assert warm.tokens == cold.tokens and warm.usage.cached_tokens > length - 32
        first = [r.timings.time_to_first_token_ms for r in (warm, cold)]
        times.append((first[0], first[1]))
    return {
        "follow_up_ms": statistics.median(warm for warm, _ in times),
        "from_start_ms": statistics.median(cold for _, cold in times),
        "ratio": statistics.median(warm / cold for warm, cold in times),
    }


def main() -> None:
    """Prints the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    with Engine(arguments.artifact) as engine:
        model = engine.artifact.manifest.model
        length = min(1000, model.context - 64)
        results = {
            "artifact": model.id,
            "batching": batching(engine, arguments.rounds, arguments.tokens),
            "follow_up": follow_up(engine, length, 20, arguments.rounds),
            "many": many(engine, arguments.requests, model.vocab_size),
        }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
