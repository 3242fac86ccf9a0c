"""edgec beside llama.cpp, ONNX Runtime GenAI, OpenVINO GenAI and torch, on the same weights.

    python benchmarks/peers.py preset:qwen3-0.6b --quantize none,int8,int4
    python benchmarks/peers.py preset:qwen3-0.6b --quantize int4 --quick

Everything that an engine needs is made here, once, under `--cache-dir`: an environment with the
pinned packages of the extra `[peers]` (llama.cpp is built from source for this CPU), one model
folder with random weights, and that folder converted for each engine. An engine that cannot be
installed, or that cannot take the model, is reported absent with the reason.

Each engine runs in a process of its own. Repetitions are interleaved: every engine runs a sample
before any runs the next, and while one runs the others are stopped. A sample during which other
processes took more than a fifth of a core is repeated, and marked if it does not get better.

Tests are llama-bench's: pp N is the prompt batch alone, tg N@D are N decode steps from a context of
D. ONNX Runtime GenAI chooses a token greedily within its step; for the others that is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer_models import CONTEXT, ENGINES, WORKERS, AbsentError, Engine, Setup, made, say

from edgec.bench.machine import Load, describe
from edgec.bench.report import present
from edgec.bench.samples import spread

TESTS = {"pp32": (32, 0, 0), "pp128": (128, 0, 0), "pp512": (512, 0, 0)} | {
    "tg64@0": (0, 64, 0),
    "tg64@512": (0, 64, 512),
}
"""Name to prompt tokens, decode steps, and tokens before them."""

QUICK = ("pp32", "tg64@0")
FORMATS = {"none": "f16", "int8": "int8", "int4": "int4"}
DISTURBED = 0.2  # cores busy with something else
RETRIES = 3


# --- Measuring --------------------------------------------------------------------------------


@dataclass
class Worker:
    """A running engine. `about` is what it said when it had loaded."""

    engine: Engine
    process: subprocess.Popen[str]
    about: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def start(engine: Engine, setup: Setup, model: Path, log: Path) -> Worker:
        """Loads an engine and waits until it has made its first token."""
        command = [str(engine.python(setup)), str(WORKERS / "worker.py"), engine.worker]
        command += [str(model), str(setup.threads), str(CONTEXT)]
        # Only edgec and torch may see this process's path.
        environ = {k: v for k, v in os.environ.items() if engine.venv is None or k != "PYTHONPATH"}
        environ["OMP_NUM_THREADS"] = str(setup.threads)
        with log.open("w") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                text=True, env=environ,
            )  # fmt: skip
        worker = Worker(engine, process)
        worker.about = worker._answer(log)
        return worker

    def _answer(self, log: Path | None = None) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            why = log.read_text().strip().splitlines()[-1:] if log else []
            raise AbsentError(f"the engine died: {' '.join(why)[:200]}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise AbsentError(str(answer["error"])[:200])
        return answer

    def measure(self, prompt: list[int], steps: list[int], depth: int) -> dict[str, Any]:
        """One sample; the process runs only meanwhile."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        request = json.dumps({"prompt": prompt, "steps": steps, "depth": depth})
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def sample(worker: Worker, test: tuple[int, int, int], picks: random.Random) -> dict[str, Any]:
    """A sample, repeated while the machine is disturbed: tokens per second, and who else ran."""
    prompt, steps, depth = test
    vocabulary = 200 if not worker.about["vocabulary"] else worker.about["vocabulary"]
    # The same tokens for every engine: all know the ids below 200.
    tokens = [picks.randrange(min(200, vocabulary)) for _ in range(prompt + steps)]
    for _ in range(RETRIES):
        with Load((worker.process.pid,)) as load:
            answer = worker.measure(tokens[:prompt], tokens[prompt:], depth)
        if load.others <= DISTURBED:
            break
        time.sleep(0.5)
    return {
        "tokens_per_second": (prompt + steps) / answer["seconds"],
        "others": round(load.others, 2),
        "peak_rss_mb": answer["peak_rss_mb"],
    }


@contextlib.contextmanager
def started(setup: Setup, kind: str, wanted: list[Engine], rows: dict[str, Any]) -> Iterator[Any]:
    """Workers of all engines that can take part; the others get their reason into `rows`."""
    workers: list[Worker] = []
    try:
        for engine in wanted:
            row = rows[engine.name] = {"weights": engine.weights.get(kind, ""), "tests": {}}
            try:
                model = engine.model(setup, kind)
                log = setup.cache / "logs" / f"{engine.worker}-{kind}.log"
                log.parent.mkdir(parents=True, exist_ok=True)
                worker = Worker.start(engine, setup, model, log)
            except AbsentError as error:
                # A result tells nothing of where it was made.
                rows[engine.name] = {"absent": str(error).replace(f"{setup.cache}/", "")}
                say(f"{engine.name}: absent: {error}")
                continue
            worker.process.send_signal(signal.SIGSTOP)
            workers.append(worker)
            row |= {"version": worker.about["version"], "settings": worker.about["settings"]}
            row["model_bytes"] = _bytes(model, engine)
            row["_model"], row["_log"] = model, log
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def _bytes(model: Path, engine: Engine) -> int:
    """What the model's files with weights take."""
    if model.is_file():
        return model.stat().st_size
    suffixes = (".irpa", ".safetensors", ".bin", ".data", ".onnx")
    return sum(f.stat().st_size for f in model.iterdir() if f.suffix in suffixes)


def run(
    setup: Setup, kind: str, wanted: list[Engine], tests: list[str], repetitions: int, loads: int
) -> dict[str, Any]:
    """All engines on one format; engine to its row."""
    rows: dict[str, Any] = {}
    with started(setup, kind, wanted, rows) as workers:
        for test in tests:
            say(f"{kind} {test}")
            picks = {w.engine.name: random.Random(test) for w in workers}
            for repetition in range(repetitions + 1):
                for worker in list(workers):
                    row = rows[worker.engine.name]
                    try:
                        found = sample(worker, TESTS[test], picks[worker.engine.name])
                    except (AbsentError, OSError) as error:
                        row["tests"][test] = {"error": str(error)}
                        workers.remove(worker)
                        worker.stop()
                        continue
                    row["peak_rss_mb"] = found.pop("peak_rss_mb")
                    if repetition:  # the first is the warm-up
                        row["tests"].setdefault(test, {"samples": []})["samples"].append(found)
        for row in rows.values():
            for result in row.get("tests", {}).values():
                _summarise(result)
    # Loading, by processes of their own; the models are in the page cache by now.
    for _ in range(loads):
        for engine in wanted:
            row = rows[engine.name]
            if "absent" in row:
                continue
            with Load() as load:
                worker = Worker.start(engine, setup, row["_model"], row["_log"])
            about = worker.about
            worker.stop()
            seconds = about["load_to_first_token_seconds"]
            row.setdefault("load_to_first_token_seconds", []).append(seconds)
            row.setdefault("load_others", []).append(round(load.others, 2))
    for row in rows.values():
        row.pop("_model", None)
        row.pop("_log", None)
    return rows


def _summarise(result: dict[str, Any]) -> None:
    speeds = [s["tokens_per_second"] for s in result.get("samples", [])]
    if speeds:
        result["median"] = statistics.median(speeds)
        result["spread"] = spread(speeds)
        result["disturbed"] = sum(s["others"] > DISTURBED for s in result["samples"])


# --- Showing ----------------------------------------------------------------------------------


def prepare(model: str, cache: Path, threads: int, layers: int | None) -> tuple[Setup, int]:
    """Writes the model's folder once; returns the setup and its number of parameters."""
    from edgec.models.sources.create import create
    from edgec.models.sources.presets import PRESETS

    name = model.removeprefix("preset:")
    if not model.startswith("preset:") or name not in PRESETS:
        raise SystemExit(
            f"peers: model {model!r}: must be preset:NAME, one of {', '.join(sorted(PRESETS))}"
        )
    # No dot in it: what is made of it gets a suffix.
    stem = name.replace(".", "_") + (f"-{layers}-layers" if layers else "")
    folder = made(
        cache / "models" / stem,
        lambda part: (create(name, part, layers=layers, dtype="f16"), None)[1],
    )
    count = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        for entry in header.values():
            size = 1
            for dimension in entry["shape"]:
                size *= dimension
            count += size
    return Setup(cache, model, folder, threads), count


def main() -> int:
    """Measures, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(
        description="edgec beside its peers, on the same weights", allow_abbrev=False
    )
    parser.add_argument("model", nargs="?", default="preset:qwen3-0.6b", help="preset:NAME")
    parser.add_argument("--quantize", default="none", help="none, int8, int4; several with commas")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--repetitions", type=int, default=3)
    parser.add_argument("--layers", type=int, help="the first N layers only")
    parser.add_argument("--engines", help="names with commas; default all")
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache/edgec/peers")
    parser.add_argument("--quick", action="store_true", help="one repetition of pp32 and tg64")
    parser.add_argument("--prepare", action="store_true", help="install and convert, no more")
    parser.add_argument("--offline", action="store_true", help="install nothing")
    parser.add_argument("--report", type=Path, metavar="DIR", help="HTML page, plots, JSON")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    options = parser.parse_args()
    kinds = options.quantize.split(",")
    if unknown := set(kinds) - set(FORMATS):
        parser.error(f"--quantize {unknown.pop()}: must be of {', '.join(FORMATS)}")
    names = [engine.name for engine in ENGINES]
    chosen = options.engines.split(",") if options.engines else names
    if missing := [name for name in chosen if name not in names]:
        parser.error(f"--engines {missing[0]}: must be of {', '.join(names)}")
    if not 1 <= options.threads <= (os.cpu_count() or 1):
        parser.error(f"--threads {options.threads}: this machine has {os.cpu_count()} cores")
    wanted = [engine for engine in ENGINES if engine.name in chosen]
    setup, parameters = prepare(options.model, options.cache_dir, options.threads, options.layers)
    setup.offline = options.offline
    if options.prepare:
        for kind in kinds:
            for engine in wanted:
                try:
                    engine.python(setup)
                    print(f"{engine.name}: {engine.model(setup, FORMATS[kind])}")
                except AbsentError as error:
                    print(f"{engine.name}: absent: {error}")
        return 0
    tests = list(QUICK if options.quick else TESTS)
    repetitions, loads = (1, 1) if options.quick else (options.repetitions, 3)
    result: dict[str, Any] = {
        "benchmark": "peers",
        "machine": describe(),
        "model": options.model,
        "layers": options.layers,
        "parameters": parameters,
        "threads": options.threads,
        "tests": tests,
        "formats": {},
    }
    for kind in kinds:
        form = FORMATS[kind]
        result["formats"][form] = run(setup, form, wanted, tests, repetitions, loads)
    if page := present(result, output=options.output, report=options.report):
        say(f"{page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
