"""Programs on llvmpipe, Mesa's software Vulkan, against the same model on the CPU.

A machine without a Vulkan driver fails here: scripts/vulkan.sh installs llvmpipe.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgec.compiler.targets.vulkan as target_module
from edgec.artifact import Artifact
from edgec.errors import DeviceError
from edgec.runtime import Session
from edgec.vulkan import VulkanDevice, devices

pytestmark = [pytest.mark.vulkan, pytest.mark.xdist_group("vulkan")]

BOTH = "cpu,vulkan:llvmpipe"


@pytest.fixture(scope="module")
def llvmpipe() -> VulkanDevice:
    found = devices()
    assert found, "no Vulkan device: run scripts/vulkan.sh"
    assert "llvmpipe" in found[0].name, f"these tests are for llvmpipe, not {found[0].name}"
    return found[0]


@pytest.fixture(scope="module")
def both(llvmpipe: VulkanDevice, compile_once: Callable[..., Artifact]) -> Artifact:
    return compile_once("tiny-both", "bundled:tiny-dense", target=BOTH)


def test_bundled_model(both: Artifact, compare: Callable[..., Any]) -> None:
    found = compare(Session(both, "cpu"), Session(both, "vulkan"))
    assert found.same_tokens
    assert found.error <= 1e-3


def test_same_text(both: Artifact) -> None:
    prompt = "In the"
    texts = {
        device: Session(both, device).generate(prompt, max_new_tokens=32, temperature=0).tokens
        for device in ("cpu", "vulkan")
    }
    assert texts["cpu"] == texts["vulkan"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["qwen3-0.6b", "llama-3.2-1b", "pythia-160m"])
def test_presets(
    preset: str,
    llvmpipe: VulkanDevice,
    tmp_path: Path,
    compare: Callable[..., Any],
) -> None:
    """Two layers of a preset, with its whole vocabulary; the prompts at the ends of a block."""
    import edgec

    artifact = edgec.compile(
        f"preset:{preset}",
        target=BOTH,
        layers=2,
        ctx_size=512,
        chunk_size=64,
        output=tmp_path / "p.edgec",
    )
    assert artifact is not None
    found = compare(Session(artifact, "cpu"), Session(artifact, "vulkan"), (1, 31, 33, 300), 1)
    assert found.same_tokens
    assert found.error <= 1e-3


@pytest.mark.parametrize("dtype", ["f16"])
def test_narrow_weights(
    dtype: str, both: Artifact, compile_once: Callable[..., Artifact], compare: Callable[..., Any]
) -> None:
    """f16 on Vulkan chooses f32's token, of those that f32 chose, at 99 % of the places."""
    narrow = compile_once(
        f"tiny-both-{dtype}", "bundled:tiny-dense", target=BOTH, dtype=dtype, chunk_size=64
    )
    found = compare(Session(both, "cpu"), Session(narrow, "vulkan"), (33, 64, 200), 20)
    assert found.agreement >= 0.99


def test_quantized_weights(
    llvmpipe: VulkanDevice, tmp_path: Path, compare: Callable[..., Any]
) -> None:
    """Each form that matrices have, in one model, against generated code for the CPU."""
    import edgec

    artifact = edgec.compile(
        "bundled:tiny-dense", target="cpu:x86_64-linux-gnu,vulkan:llvmpipe", layers=2,
        quantize="int4", asymmetric=True, embedding_quantize="int8",
        ctx_size=64, chunk_size=64, output=tmp_path / "q.edgec",
    )  # fmt: skip
    assert artifact is not None
    assert artifact.manifest.quantization["weights"] == "int4, int8"
    if artifact.manifest.programs["cpu"].requirements["architecture"] != platform.machine():
        pytest.skip("the program to compare with is for x86-64")
    found = compare(Session(artifact, "cpu"), Session(artifact, "vulkan"), (33,))
    assert found.same_tokens
    assert found.error <= 1e-3


def test_a_device_described_from_its_report(
    llvmpipe: VulkanDevice,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    compare: Callable[..., Any],
) -> None:
    """One that no table knows, and that lacks 64-bit integers."""
    import edgec

    lacking = ("Int64", "Float64", "Int16", "Int8")
    kept = tuple(name for name in llvmpipe.capabilities if name not in lacking)
    odd = dataclasses.replace(llvmpipe, name="Oddity 3000", vendor=1, capabilities=kept)
    monkeypatch.setattr(target_module, "probe", lambda: [odd])
    artifact = edgec.compile(
        "bundled:tiny-dense", target="cpu,vulkan", layers=1, ctx_size=64, chunk_size=64,
        output=tmp_path / "odd.edgec",
    )  # fmt: skip
    assert artifact is not None
    program = artifact.manifest.programs["vulkan"]
    assert program.target == "vulkan:oddity-3000"
    assert "Int64" not in program.requirements["capabilities"].split(",")
    found = compare(Session(artifact, "cpu"), Session(artifact, "vulkan"), (33,))
    assert found.same_tokens
    assert found.error <= 1e-3


def test_the_baseline_runs_here(
    llvmpipe: VulkanDevice, tmp_path: Path, compare: Callable[..., Any]
) -> None:
    """Without subgroup operations their size does not matter."""
    import edgec

    artifact = edgec.compile(
        "bundled:tiny-dense", target="cpu,vulkan:baseline", layers=1, ctx_size=64, chunk_size=64,
        output=tmp_path / "b.edgec",
    )  # fmt: skip
    found = compare(Session(artifact, "cpu"), Session(artifact, "vulkan"), (33,))
    assert found.same_tokens
    assert found.error <= 1e-3


def test_another_subgroup_size_is_refused(
    llvmpipe: VulkanDevice, compile_once: Callable[..., Artifact]
) -> None:
    artifact = compile_once(
        "tiny-ampere", "bundled:tiny-dense", target="vulkan:ampere", dtype="f16", layers=1,
        ctx_size=64, chunk_size=64,
    )  # fmt: skip
    with pytest.raises(DeviceError, match="needs subgroups of 32 .it has 8.*--target vulkan"):
        Session(artifact, "vulkan")


def test_too_little_memory_is_said_before(
    both: Artifact, llvmpipe: VulkanDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = dataclasses.replace(llvmpipe, memory=5_000_000)
    monkeypatch.setattr("edgec.vulkan.devices", lambda: [small])
    with pytest.raises(DeviceError, match=r"needs \d\d MB of device memory, 5 MB are there"):
        Session(both, "vulkan")
