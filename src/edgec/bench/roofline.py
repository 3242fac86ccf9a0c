"""An artifact's place under its device's roof, by phase and scenario.

The scenarios are RooflineBench's: short or long input, short or long output. On a small machine
they are taken at an eighth of their lengths, which is said in the result. Counts of operations and
bytes are those of `costs.py`, never of the device: a program that reads a weight twice gets no
credit for it.

The Relative Inference Potential Φ measures how far a point (OI, P) is from the roof, whose ridge is
at (OI_r, π). Below the ridge it is the distance to it, √((OI_r − OI)² + (π − P)²); at or above it,
π − P. Smaller is nearer. Points on opposite sides of the ridge are not compared.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.artifact import Artifact
from edgec.bench.ceilings import Ceilings, best_of, cpu_ceilings, device_ceilings
from edgec.bench.costs import Cost, ModelShape, model_shape
from edgec.bench.machine import Load, describe
from edgec.bench.worker import Worker
from edgec.errors import ArtifactError, InputError
from edgec.manifest import Manifest
from edgec.runtime.drivers import on_host
from edgec.runtime.program import select_program

__all__ = [
    "SCENARIOS",
    "Measured",
    "Scenario",
    "inference_potential",
    "measure_artifact",
    "parse_scenarios",
    "roofline",
    "verdict",
]


@dataclass(frozen=True)
class Scenario:
    """A number of prompt tokens, then a number of generated ones."""

    name: str
    prompt: int
    generated: int

    def scaled(self, scale: int) -> Scenario:
        """With lengths divided by `scale`, at least one token each."""
        return Scenario(self.name, max(1, self.prompt // scale), max(1, self.generated // scale))


SCENARIOS = {
    "SISO": Scenario("SISO", 128, 128),
    "SILO": Scenario("SILO", 128, 4096),
    "LISO": Scenario("LISO", 4096, 128),
    "LILO": Scenario("LILO", 4096, 4096),
}
"""Short or long input, short or long output, after RooflineBench."""

SCALE = 8


def parse_scenarios(text: str, scale: int) -> list[Scenario]:
    """The scenarios of a comma list.

    Raises:
        InputError: an unknown one, or a scale below 1.
    """
    if scale < 1:
        raise InputError(f"scale {scale}: must be at least 1")
    found = []
    for name in text.split(","):
        if name.strip().upper() not in SCENARIOS:
            raise InputError(f"scenario '{name}': must be one of {', '.join(SCENARIOS)}")
        found.append(SCENARIOS[name.strip().upper()].scaled(scale))
    return found


def inference_potential(intensity: float, performance: float, roof: Ceilings, peak: float) -> float:
    """Φ with intensities in FLOP/byte and performances in GFLOP/s."""
    ridge, top, reached = peak / roof.bandwidth, peak / 1e9, performance / 1e9
    if intensity >= ridge:
        return top - reached
    return math.hypot(ridge - intensity, top - reached)


def roofline(
    artifacts: list[tuple[str, Path]],
    *,
    say: Callable[[str], None],
    scenarios: list[Scenario] | None = None,
    device: str | None = None,
    threads: int | None = None,
    repetitions: int = 3,
) -> dict[str, Any]:
    """Measures artifacts under one roof.

    What a machine can do changes while others use it, so that the roof is measured at the start and
    again after each artifact. The best counts, for every point; all are in `roof_samples`.

    Args:
        artifacts: Label and folder of each: one, or those of a sweep.
        say: Told what happens, a line at a time.
        scenarios: Default all four, scaled.
        device: As for `edgec bench`.
        threads: CPU worker threads; None for all cores.
        repetitions: Of each scenario; medians count.

    Raises:
        InputError: a scenario that does not fit into an artifact's context.
        ArtifactError: it does not say what its model is.
        DeviceError: the device is absent.
    """
    scenarios = scenarios or [s.scaled(SCALE) for s in SCENARIOS.values()]
    opened = [(label, Artifact.open(path)) for label, path in artifacts]
    for label, artifact in opened:
        context = artifact.manifest.model.context
        for scenario in scenarios:
            needed = scenario.prompt + scenario.generated
            if needed > context:
                raise InputError(
                    f"scenario {scenario.name} of {label}: {needed} tokens, the artifact's context"
                    f" is {context}",
                    "compile with a larger -c, or take a larger --scale",
                )
        shape_of(artifact)
    kind = device or "cpu"
    program = select_program(opened[0][1], kind)
    cpu, target = on_host(program.driver), program.target
    say("measure the machine's ceilings")
    roofs = cpu_ceilings(threads) if cpu else [device_ceilings(target)]
    at = next((i for i, r in enumerate(roofs) if r.threads == threads), len(roofs) - 1)
    samples, measured = [roofs[at]], []
    for label, artifact in opened:
        measured += measure_artifact(label, artifact, scenarios, kind, threads, repetitions, say)
        say("measure the ceilings again")
        samples += cpu_ceilings(threads, alone=True) if cpu else [device_ceilings(target)]
    roof = roofs[at] = best_of(samples)
    points = [
        {**m.about, **place(m.cost, m.seconds, roof, _peak(roof, m.manifest))} for m in measured
    ]
    return {
        "benchmark": "roofline",
        "machine": describe(),
        "device": kind,
        "threads": roof.threads,
        "repetitions": repetitions,
        "ceilings": [r.to_dict() for r in roofs],
        "roof": roof.to_dict(),
        "roof_samples": [r.to_dict() for r in samples],
        "points": points,
        "verdict": verdict(points),
    }


def shape_of(artifact: Artifact) -> ModelShape:
    """The shape of an artifact's model, checked against what the compiler counted.

    Raises:
        ArtifactError: no configuration in it, or the formulas give another number of weights.
    """
    file = artifact.path / "config.json"
    if not file.is_file():
        raise ArtifactError(f"artifact {artifact.path}: no config.json", "compile again")
    shape = model_shape(json.loads(file.read_text("utf-8")))
    counted = artifact.manifest.model.parameters
    if abs(shape.parameters - counted) > 0.01 * counted:
        raise ArtifactError(
            f"artifact {artifact.path}: the cost formulas give {shape.parameters} weights, it has"
            f" {counted}: they do not describe this family"
        )
    return shape


@dataclass(frozen=True)
class Measured:
    """A phase of a scenario before it is placed under a roof; `seconds` is the median."""

    about: dict[str, Any]
    manifest: Manifest
    cost: Cost
    seconds: float


def measure_artifact(
    label: str,
    artifact: Artifact,
    scenarios: list[Scenario],
    device: str,
    threads: int | None,
    repetitions: int,
    say: Callable[[str], None],
) -> list[Measured]:
    """Both phases of every scenario."""
    shape, manifest = shape_of(artifact), artifact.manifest
    element = stored_state(manifest, shape)
    weight = stored_weight(manifest, shape)
    worker = Worker(artifact.path, device, threads)
    picks = random.Random(0)
    measured = []
    try:
        for scenario in scenarios:
            say(f"{label}: {scenario.name} {scenario.prompt}/{scenario.generated}")
            prompt = [picks.randrange(200) for _ in range(scenario.prompt)]
            worker.measure(prompt, steps=1)
            runs, others = [], 0.0
            for _ in range(repetitions):
                with Load((worker.process.pid,)) as load:
                    runs.append(worker.measure(prompt, steps=scenario.generated))
                others = max(others, load.others)
            phases = {
                "prefill": (
                    shape.prefill(
                        0, scenario.prompt, chunk=manifest.prompt.max, weight=weight, state=element
                    ),
                    [run["prompt_seconds"] for run in runs],
                    scenario.prompt,
                ),
                "decode": (
                    shape.decode(scenario.prompt, scenario.generated, weight=weight, state=element),
                    [run["seconds"] - run["prompt_seconds"] for run in runs],
                    scenario.generated,
                ),
            }
            for phase, (cost, seconds, tokens) in phases.items():
                median = statistics.median(seconds)
                about = {
                    "label": label,
                    "scenario": scenario.name,
                    "n_prompt": scenario.prompt,
                    "n_gen": scenario.generated,
                    "phase": phase,
                    "layers": manifest.model.layers,
                    "weights": _format(manifest),
                    "model": manifest.model.id,
                    "avg_ts": tokens / median,
                    "samples_ts": [tokens / s for s in seconds],
                    "others": round(others, 2),
                }
                measured.append(Measured(about, manifest, cost, median))
    finally:
        worker.close()
    return measured


def place(cost: Cost, seconds: float, roof: Ceilings, peak: float) -> dict[str, Any]:
    """A point: intensity, performance, the share of the roof above it, and Φ."""
    performance = cost.flops / seconds
    ridge = peak / roof.bandwidth
    above = min(peak, roof.bandwidth * cost.intensity)
    return {
        "flops": cost.flops,
        "bytes": cost.bytes,
        "seconds": seconds,
        "intensity": cost.intensity,
        "performance": performance,
        "bandwidth": cost.bytes / seconds,
        "peak": peak,
        "share_of_roof": performance / above,
        "regime": "compute" if cost.intensity >= ridge else "memory",
        "inference_potential": inference_potential(cost.intensity, performance, roof, peak),
    }


def verdict(points: list[dict[str, Any]]) -> list[str]:
    """A sentence in plain English for each phase of each label: what bounds it."""
    sentences = []
    for label in dict.fromkeys(point["label"] for point in points):
        for phase in ("prefill", "decode"):
            mine = [p for p in points if (p["label"], p["phase"]) == (label, phase)]
            if mine:
                sentences.append(_sentence(label, phase, mine))
    return sentences


def _sentence(label: str, phase: str, points: list[dict[str, Any]]) -> str:
    low, high = (f(p["share_of_roof"] for p in points) for f in (min, max))
    share = f"{low:.0%}" if round(low, 2) == round(high, 2) else f"{low:.0%} to {high:.0%}"
    regimes = {p["regime"] for p in points}
    if regimes == {"memory"}:
        one = points[-1]
        tokens = one["n_prompt"] if phase == "prefill" else one["n_gen"]
        need = f"{one['bytes'] / tokens / 1e6:.3g} MB for each token"
        roof = f"reading memory ({need})"
    elif regimes == {"compute"}:
        roof = f"arithmetic ({points[-1]['intensity']:.0f} operations for each byte)"
    else:
        roof = "reading memory for short inputs, arithmetic for long ones"
    if low >= 0.5:
        return f"{label}, {phase}: bound by {roof}; it reaches {share} of that roof."
    return (
        f"{label}, {phase}: the roof above it is {roof}, but it reaches only {share} of"
        " it: its code and the cost of starting dispatches bound it, not the hardware."
    )


def stored_weight(manifest: Manifest, shape: ModelShape) -> float:
    """Bytes of a weight as the artifact stores it, scales included."""
    return manifest.memory.weights / shape.parameters


def stored_state(manifest: Manifest, shape: ModelShape) -> float:
    """Bytes of an element of the state, scales included."""
    width = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1}
    row = sum(math.prod(b.shape[1:]) * width[b.dtype] for b in manifest.state if b.has_rows)
    return row / shape.state_bytes_per_token(1)


def _format(manifest: Manifest) -> str:
    quantised = manifest.quantization.get("weights", "none")
    return manifest.dtype if quantised == "none" else quantised


def _peak(roof: Ceilings, manifest: Manifest) -> float:
    """The arithmetic roof of a program: the fastest unit that its weights let it use."""
    if manifest.quantization.get("weights", "none") != "none" and roof.int8:
        return roof.int8
    if manifest.dtype == "f16" and roof.f16:
        return roof.f16
    return roof.f32
