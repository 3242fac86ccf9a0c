"""The roofline: ceilings, points, the distance to the roof, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgec.artifact import Artifact
from edgec.bench import ceilings
from edgec.bench.ceilings import Ceilings, best_of, cpu_ceilings, device_ceilings
from edgec.bench.costs import Cost
from edgec.bench.report import write_report
from edgec.bench.roofline import (
    inference_potential,
    parse_scenarios,
    place,
    roofline,
    shape_of,
    verdict,
)
from edgec.errors import ArtifactError, EdgecError, InputError

ROOF = Ceilings("cpu", 2, 20e9, 200e9, 400e9, None, "made up")


def test_the_best_of_several_measurements() -> None:
    slow = dataclasses.replace(ROOF, bandwidth=10e9, f32=300e9, int8=None)
    assert best_of([slow, ROOF]) == dataclasses.replace(ROOF, f32=300e9)
    assert best_of([ROOF, slow]).int8 == 400e9
    assert best_of([slow, slow]) == slow


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings in a moment; what they are then is no measurement."""
    monkeypatch.setattr(ceilings, "BUFFER", 16 << 20)
    monkeypatch.setattr(ceilings, "TRIALS", 1)


def test_distance_to_the_ridge() -> None:
    """Below the ridge (10 FLOP/byte) the distance to it, above it what is missing to the peak."""
    assert inference_potential(2, 30e9, ROOF, 200e9) == pytest.approx(math.hypot(8, 170))
    assert inference_potential(10, 150e9, ROOF, 200e9) == pytest.approx(50)
    assert inference_potential(99, 150e9, ROOF, 200e9) == pytest.approx(50)


def test_points() -> None:
    decode = place(Cost(1e9, 1e9), 0.1, ROOF, 200e9)
    assert decode["regime"] == "memory"
    assert decode["share_of_roof"] == pytest.approx(0.5)
    assert decode["bandwidth"] == pytest.approx(10e9)
    prefill = place(Cost(100e9, 1e9), 1.0, ROOF, 200e9)
    assert prefill["regime"] == "compute"
    assert prefill["share_of_roof"] == pytest.approx(0.5)


def test_verdicts() -> None:
    def point(phase: str, cost: Cost, seconds: float) -> dict[str, Any]:
        about = {"label": "m", "phase": phase, "n_prompt": 100, "n_gen": 10}
        return about | place(cost, seconds, ROOF, 200e9)

    near = point("decode", Cost(1e9, 1e9), 0.06)
    far = point("prefill", Cost(100e9, 1e9), 10.0)
    sentences = verdict([near, far])
    assert sentences[0] == (
        "m, prefill: the roof above it is arithmetic (100 operations for each byte), but it reaches"
        " only 5% of it: its code and the cost of starting dispatches bound it, not the"
        " hardware."
    )
    assert sentences[1:] == [
        "m, decode: bound by reading memory (100 MB for each token); it reaches 83% of that roof.",
    ]


@pytest.mark.parametrize(
    ("text", "scale", "message"),
    [
        ("SISO,MISO", 8, "scenario 'MISO': must be one of SISO, SILO, LISO, LILO"),
        ("SISO", 0, "scale 0: must be at least 1"),
    ],
)
def test_bad_scenarios(text: str, scale: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_scenarios(text, scale)


def test_scenarios_are_scaled() -> None:
    (one, other) = parse_scenarios("siso,LILO", 8)
    assert (one.prompt, one.generated) == (16, 16)
    assert (other.prompt, other.generated) == (512, 512)


def test_too_long_a_context(tiny_dense_artifact: Artifact) -> None:
    with pytest.raises(InputError, match="LILO of tiny: 8192 tokens, the artifact's context is"):
        roofline(
            [("tiny", tiny_dense_artifact.path)],
            say=lambda _: None,
            scenarios=parse_scenarios("LILO", 1),
        )


def test_a_device_that_is_missing(tiny_dense_artifact: Artifact, quick: None) -> None:
    scenarios = parse_scenarios("SISO", 64)
    with pytest.raises(InputError, match="device 'cuda': the artifact has programs for cpu"):
        roofline(
            [("tiny", tiny_dense_artifact.path)], say=print, scenarios=scenarios, device="cuda"
        )
    with pytest.raises(InputError, match="threads=4096: this machine has"):
        cpu_ceilings(4096)
    with pytest.raises(EdgecError, match="device 'cuda:sm_86' cannot be opened"):
        device_ceilings("cuda:sm_86")


def test_an_artifact_of_another_family(tiny_dense_artifact: Artifact, tmp_path: Path) -> None:
    """Formulas that do not give the number of weights that the compiler counted are refused."""
    copy = tmp_path / "copy.edgec"
    shutil.copytree(tiny_dense_artifact.path, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 4096}))
    artifact = dataclasses.replace(tiny_dense_artifact, path=copy)
    with pytest.raises(ArtifactError, match="they do not describe this family"):
        shape_of(artifact)
    (copy / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        shape_of(artifact)


@pytest.mark.parametrize("form", ["none", "int4"])
def test_costs_agree_with_the_manifest(compile_once: Callable[..., Artifact], form: str) -> None:
    """Bytes that a step reads, by the formulas and as the compiler counted it."""
    from edgec.bench.roofline import stored_state, stored_weight

    name = "tiny-dense" if form == "none" else "tiny-dense-int4-bench"
    options = {} if form == "none" else {"quantize": form}
    artifact = compile_once(name, "bundled:tiny-dense", target="cpu", **options)
    manifest, shape = artifact.manifest, shape_of(artifact)
    assert shape.parameters == manifest.model.parameters
    read = shape.weights_per_token * stored_weight(manifest, shape)
    assert read == pytest.approx(manifest.memory.weights_per_token, rel=0.01)
    width = {"f32": 4, "f16": 2}[manifest.state[0].dtype]
    assert stored_state(manifest, shape) == width


def test_an_artifact_under_its_roof(
    tiny_dense_artifact: Artifact, tmp_path: Path, quick: None
) -> None:
    """From the machine to the page, on the smallest lengths."""
    result = roofline(
        [("tiny", tiny_dense_artifact.path)],
        say=lambda _: None,
        scenarios=parse_scenarios("SISO,LISO", 64),
        repetitions=1,
    )
    assert all(roof["bandwidth"] > 1e8 and roof["f32"] > 1e8 for roof in result["ceilings"])
    first, last = result["roof_samples"]
    assert first["threads"] == last["threads"] == result["threads"]
    assert result["roof"]["bandwidth"] == max(first["bandwidth"], last["bandwidth"])
    assert result["roof"] in result["ceilings"]
    assert [p["phase"] for p in result["points"]] == ["prefill", "decode"] * 2
    for point in result["points"]:
        assert point["flops"] / point["seconds"] == pytest.approx(point["performance"])
        assert point["avg_ts"] == pytest.approx(point["samples_ts"][0])
    page = write_report(tmp_path / "report", [result]).read_text()
    assert "tiny, decode" in page
    for name in ("roofline.png", "roofline.svg", "scenarios.png", "roofline.json"):
        assert (tmp_path / "report" / name).stat().st_size > 1000


def test_peaks_by_numpy(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a C compiler numpy measures, and the result says so."""
    monkeypatch.setattr(ceilings.importlib.util, "find_spec", lambda _: None)
    (first, *_) = cpu_ceilings()
    assert first.method.startswith("numpy") and first.int8 is None and first.f32 > 1e8
