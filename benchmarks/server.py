"""`edgec serve` as clients meet it: its overhead, its throughput, follow-ups, stalls, memory.

    python benchmarks/server.py ARTIFACT -o benchmarks/results/server.json
    python benchmarks/server.py ARTIFACT --requests 10000 --only memory

| part | what is measured |
|---|---|
| `overhead` | decode of one streaming client against `Session` in a process of its own, by turns; the time a token takes on the wire and in the engine, and their ratio |
| `throughput` | tokens per second of 8 streaming clients, against one |
| `follow_up` | time to the first token of 20 tokens more in a long conversation, against the same prompt with `cache_prompt: false` |
| `stall` | the longest gap in a stream while another client's long prompt is computed, and how long the longest chunk of a prompt takes |
| `memory` | resident memory after the first 500 short requests and at the end, a third of them cancelled midway |
"""  # noqa: E501 -- a table

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2

from edgec.bench.machine import describe

DECODE = """
import sys, time
from edgec import Session
session = Session(sys.argv[1])
tokens = int(sys.argv[2])
prompt = [int(x) for x in sys.argv[3].split(",")]
print("ready", flush=True)
for line in sys.stdin:
    session.reset()
    result = session.generate(prompt, max_new_tokens=tokens, temperature=0, ignore_eos=True)
    print(result.timings.decode_per_second, flush=True)
"""
SERVE = "from edgec.cli import main; main()"


class Client:
    """Completions of token ids, greedy and to their length."""

    def __init__(self, url: str) -> None:
        self.http = httpx2.Client(base_url=url, timeout=600)

    def stream(self, ids: list[int], tokens: int, stop_after: int = 0, **more: Any) -> list[float]:
        """When each event came, in seconds since the request.

        A token whose text is not yet a character has none; no log-probabilities are asked for
        to have them all, because those make the engine read the logits back.
        """
        body = {
            "prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "stream": True, **more,
        }  # fmt: skip
        start, times = time.perf_counter(), []
        with self.http.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                raise SystemExit(answer.read().decode())
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    if '"error"' in line:
                        raise SystemExit(line)
                    times.append(time.perf_counter() - start)
                    if len(times) == stop_after:
                        break
        return times

    def metrics(self) -> dict[str, float]:
        lines = self.http.get("/metrics").text.splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}


def rate(times: list[float], tokens: int) -> float:
    """Tokens per second after the first."""
    return (tokens - 1) / (times[-1] - times[0])


@contextmanager
def serving(artifact: str, *flags: str) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    command = [sys.executable, "-c", SERVE, "serve", artifact, "--port", "0", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        found = re.search(r"http://\S+", process.stderr.readline())
        if found is None or "ready" not in process.stderr.readline():
            raise SystemExit("the server did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def overhead(artifact: str, client: Client, ids: list[int], tokens: int, rounds: int) -> Any:
    """The same generation through HTTP and in a process without a server, by turns."""
    command = [sys.executable, "-c", DECODE, artifact, str(tokens), ",".join(map(str, ids))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as alone:
        assert alone.stdin is not None
        assert alone.stdout is not None
        alone.stdout.readline()
        served, direct = [], []
        for number in range(rounds + 1):
            served.append(rate(client.stream(ids, tokens, cache_prompt=False), tokens))
            print(number, file=alone.stdin, flush=True)
            direct.append(float(alone.stdout.readline()))
        alone.stdin.close()
    served, direct = served[1:], direct[1:]  # the first of each warms up
    ratios = [d / s for s, d in zip(served, direct, strict=True)]
    return {
        "tokens": tokens,
        "rounds": rounds,
        "server_tokens_per_second": statistics.median(served),
        "session_tokens_per_second": statistics.median(direct),
        "overhead": statistics.median(ratios) - 1,
    }


def throughput(client: Client, url: str, prompts: list[list[int]], tokens: int) -> Any:
    """Eight clients at once against one."""
    one = rate(client.stream(prompts[0], tokens, cache_prompt=False), tokens)
    start = time.perf_counter()
    with ThreadPoolExecutor(len(prompts)) as pool:
        ask: Callable[[list[int]], list[float]] = lambda ids: Client(url).stream(ids, tokens)  # noqa: E731
        list(pool.map(ask, prompts))
    seconds = time.perf_counter() - start
    total = tokens * len(prompts)
    return {
        "clients": len(prompts),
        "tokens_per_second_of_one": one,
        "tokens_per_second_of_all": total / seconds,
        "ratio": total / seconds / one,
    }


def follow_up(client: Client, conversation: list[int], more: list[int], rounds: int) -> Any:
    """First tokens of a conversation that is in memory, and of one that is not, by turns."""
    warm, cold = [], []
    for number in range(rounds):
        session: dict[str, Any] = {"session_id": f"follow-up-{number}"}
        client.stream(conversation, 1, **session)
        warm.append(client.stream(conversation + more, 1, **session)[0])
        cold.append(client.stream(conversation + more, 1, cache_prompt=False)[0])
    ratios = [w / c for w, c in zip(warm, cold, strict=True)]
    return {
        "conversation_tokens": len(conversation),
        "new_tokens": len(more),
        "first_token_ms": statistics.median(warm) * 1e3,
        "first_token_ms_afresh": statistics.median(cold) * 1e3,
        "ratio": statistics.median(ratios),
    }


def stall(client: Client, url: str, ids: list[int], long: list[int], tokens: int) -> Any:
    """The longest gap between tokens, without and with a long prompt of another client."""

    def longest(times: list[float]) -> float:
        return max(b - a for a, b in pairwise(times)) * 1e3

    quiet = longest(client.stream(ids, tokens, cache_prompt=False))
    before = client.metrics()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(client.stream, ids, tokens, cache_prompt=False)
        time.sleep(0.05)
        prompt = Client(url).stream(long, 1, cache_prompt=False)
        times = reading.result()
    after = client.metrics()
    chunks = after["edgec_prefill_calls_total"] - before["edgec_prefill_calls_total"]
    return {
        "prompt_tokens": len(long),
        "prompt_ms": prompt[0] * 1e3,
        "prefill_calls": chunks,
        "longest_gap_ms": longest(times),
        "longest_gap_ms_alone": quiet,
        "mean_chunk_ms": prompt[0] * 1e3 / max(1, chunks - 1),
    }


def memory(client: Client, url: str, vocabulary: int, count: int) -> Any:
    """Short requests of 8 clients; every third goes away after its second token."""
    first = min(500, count // 2)
    picks = random.Random(0)
    jobs = [
        [picks.randrange(vocabulary) for _ in range(picks.randint(1, 40))] for _ in range(count)
    ]
    clients = threading.local()

    def ask(number: int) -> None:
        if not hasattr(clients, "own"):
            clients.own = Client(url)
        clients.own.stream(jobs[number], 8, stop_after=2 if number % 3 == 0 else 0)

    samples: list[float] = []
    start = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        for begin in range(0, count, 50):
            list(pool.map(ask, range(begin, min(begin + 50, count))))
            if begin + 50 >= first:
                samples.append(client.metrics()["process_resident_memory_bytes"] / 1e6)
    seconds = time.perf_counter() - start
    end = client.metrics()
    few = max(1, min(10, len(samples) // 3))
    early, late = statistics.median(samples[:few]), statistics.median(samples[-few:])
    return {
        "requests": count,
        "requests_per_second": count / seconds,
        "cancelled": end['edgec_generations_total{end="cancelled"}'],
        "rss_mb_after_first": early,
        "rss_mb_at_end": late,
        "growth": late / early - 1,
        "running_at_end": end['edgec_sequences{phase="decoding"}']
        + end['edgec_sequences{phase="prefilling"}'],
        "queued_at_end": end["edgec_queued_requests"],
        "state_mb": end["edgec_state_bytes"] / 1e6,
        "state_budget_mb": end["edgec_state_budget_bytes"] / 1e6,
    }


def main() -> None:
    """Measures what the options ask for and writes or prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("artifact")
    parser.add_argument("--tokens", type=int, default=128, help="of each measured stream")
    parser.add_argument("--conversation", type=int, default=1000, help="tokens before a follow-up")
    parser.add_argument("--long", type=int, default=2000, help="tokens of the stalling prompt")
    parser.add_argument("--requests", type=int, default=10_000, help="of the memory run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="some of the parts, with commas")
    parser.add_argument("-o", "--output", type=Path, help="JSON file (default: print)")
    options = parser.parse_args()
    manifest = json.loads((Path(options.artifact) / "manifest.json").read_text("utf-8"))
    vocabulary, context = manifest["model"]["vocab_size"], manifest["model"]["context"]
    picks = random.Random(0)

    def ids(count: int) -> list[int]:
        return [picks.randrange(vocabulary) for _ in range(count)]

    length = min(options.conversation, context - 64)
    long = min(options.long, context - 2)
    chunk = manifest["prompt"]["max"]
    # A stream that outlives the long prompt: a token comes after each of its chunks.
    beside = min(context - 40, options.tokens + 2 * (long // chunk + 1))
    result: dict[str, Any] = {
        "benchmark": "server",
        "machine": describe(),
        "artifact": {"model": manifest["model"]["id"], "dtype": manifest["dtype"],
                     "quantization": manifest["quantization"], "context": context},
    }  # fmt: skip
    with serving(options.artifact) as url:
        client = Client(url)
        parts: dict[str, Callable[[], Any]] = {
            "overhead": lambda: overhead(
                options.artifact, client, ids(32), options.tokens, options.rounds
            ),
            "throughput": lambda: throughput(
                client, url, [ids(8 + 12 * n) for n in range(8)], options.tokens
            ),
            "follow_up": lambda: follow_up(client, ids(length), ids(20), options.rounds),
            "stall": lambda: stall(client, url, ids(16), ids(long), beside),
            "memory": lambda: memory(client, url, vocabulary, options.requests),
        }
        chosen = options.only.split(",") if options.only else list(parts)
        if unknown := set(chosen) - set(parts):
            parser.error(f"--only: no {', '.join(unknown)}; there are {', '.join(parts)}")
        for name in chosen:
            result[name] = parts[name]()
            print(f"{name}: {json.dumps(result[name])}", file=sys.stderr)
    text = json.dumps(result, indent=2) + "\n"
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text, "utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
