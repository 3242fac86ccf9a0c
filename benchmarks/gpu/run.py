"""Parity and speed on a machine with an NVIDIA GPU, in one call; prints and writes JSON.

    python -m benchmarks.gpu.run --artifacts DIR --output results.json

`DIR` holds what `prepare.sh` made elsewhere: for each model a folder with programs for cpu, cuda
and vulkan, and its weights. The machine needs NVIDIA's driver, the packages that a device installs,
and for Vulkan a loader (libvulkan.so.1) with the driver's manifest. A device that cannot be opened
is a result too: its error stands in the JSON, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgec.cuda import CudaError
from edgec.cuda import device as cuda_device
from edgec.errors import EdgecError
from edgec.runtime import Session
from edgec.runtime.bench import decode
from edgec.vulkan import VulkanError, probe

PROMPTS = (1, 31, 32, 33, 300)
FOLLOW_UP = 17
STEPS = 8


def parity(expected: Session, actual: Session) -> dict[str, Any]:
    """Logits of prompts, follow-ups and decode steps: the error over the range, equal argmaxes."""
    random = np.random.default_rng(0)
    vocabulary = expected.artifact.manifest.model.vocab_size
    errors, same = [], []
    for count in PROMPTS:
        expected.reset()
        actual.reset()
        for length in (count, FOLLOW_UP):
            prompt = [int(token) for token in random.integers(0, vocabulary, length)]
            wanted, got = expected.prefill(prompt), actual.prefill(prompt)
            for step in range(STEPS + 1):
                errors.append(float(np.abs(wanted - got).max() / np.ptp(wanted)))
                token = int(wanted.argmax())
                same.append(token == int(got.argmax()))
                if step < STEPS:
                    wanted, got = expected.decode(token), actual.decode(token)
    return {"max_error": max(errors), "agreement": sum(same) / len(same), "places": len(same)}


def speed(session: Session, repetitions: int) -> list[dict[str, Any]]:
    """llama-bench's pp and tg: random tokens, one warm-up, means and deviations of tokens/s."""
    random = np.random.default_rng(0)
    vocabulary = session.artifact.manifest.model.vocab_size
    rows = []
    for n_prompt, n_gen, depth in ((32, 0, 0), (128, 0, 0), (512, 0, 0), (0, 64, 0), (0, 64, 512)):
        samples = []
        for repetition in range(repetitions + 1):
            session.reset()
            if depth:
                session.prefill([int(t) for t in random.integers(0, vocabulary, depth)])
            prompt = [int(token) for token in random.integers(0, vocabulary, n_prompt or n_gen)]
            started = time.perf_counter()
            if n_prompt:
                session.sequence.extend(prompt).token()
            else:
                decode(session.sequence, prompt)
            if repetition:
                samples.append(len(prompt) / (time.perf_counter() - started))
        rows.append(
            {
                "n_prompt": n_prompt,
                "n_gen": n_gen,
                "n_depth": depth,
                "avg_ts": statistics.mean(samples),
                "stddev_ts": statistics.pstdev(samples),
                "samples_ts": samples,
            }
        )
    return rows


def machine() -> dict[str, Any]:
    """The drivers' description of the first device of each kind."""
    found: dict[str, Any] = {}
    try:
        found["cuda"] = vars(cuda_device())
    except CudaError as error:
        found["cuda"] = str(error)
    try:
        found["vulkan"] = [vars(device) for device in probe()]
    except VulkanError as error:
        found["vulkan"] = str(error)
    return found


def measure(folder: Path, repetitions: int) -> dict[str, Any]:
    """Every program of an artifact but the CPU's, which is what they are compared with."""
    reference = Session(folder, "cpu")
    results: dict[str, Any] = {}
    for device in reference.artifact.manifest.programs:
        if device == "cpu":
            continue
        try:
            session = Session(folder, device)
            results[device] = {
                "target": reference.artifact.manifest.programs[device].target,
                "parity": parity(reference, session),
                "speed": speed(session, repetitions),
            }
        except EdgecError as error:
            results[device] = {"error": str(error)}
        print(json.dumps({folder.name: {device: results[device]}}), flush=True)
    return results


def main() -> int:
    """Exit code 1 when a device could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    options = parser.parse_args()
    folders = sorted(options.artifacts.glob("*.edgec"))
    if not folders:
        parser.error(f"{options.artifacts}: no artifacts; run prepare.sh")
    results = {folder.name: measure(folder, options.repetitions) for folder in folders}
    everything = {"machine": machine(), "results": results}
    options.output.write_text(json.dumps(everything, indent=2) + "\n", "utf-8")
    failed = any("error" in one for model in results.values() for one in model.values())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
