"""The padding ablation, reduced: one layer, some arms, few prompts; and what it reads from IREE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgec.bench.ablation import compile_arms, measure_arms
from edgec.bench.arms import arms_for
from edgec.bench.dispatches import Contraction, contractions, dispatch_counts
from edgec.bench.tables import speedups, tables_of, to_markdown
from edgec.compiler.targets import TARGETS
from edgec.errors import InputError, ModelError
from edgec.options import CompileRequest

CONFIGURED = """
module {
  hal.executable.source private @prefill$async_dispatch_3 {
    func.func @prefill$async_dispatch_3_matmul_like_Dx64x32_f16xf16xf32() attributes {translation_info = #iree_codegen.translation_info<pipeline = #iree_gpu.pipeline<TileAndFuse> workgroup_size = [64, 1, 1] subgroup_size = 32, {}>} {
      %0 = linalg.generic {lowering_config = #iree_gpu.lowering_config<{mma_kind = #iree_gpu.mma_layout<NV_MMA_SYNC_F32_16x8x16_F16>, reduction = [0, 0, 0, 2], subgroup = [0, 1, 1, 0], workgroup = [1, 32, 32, 0]}>}
      %1 = linalg.generic {lowering_config = #iree_gpu.lowering_config<{thread = [4]}>}
    }
  }
  hal.executable.source private @prefill$async_dispatch_4 {
    func.func @prefill$async_dispatch_4_elementwise_D_f32() attributes {translation_info = #iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<DoubleTilingExpert>>} {
    }
  }
  util.func public @prefill$async(%arg0: i64) {
    stream.cmd.dispatch @prefill$async_dispatch_3 {}
    stream.cmd.dispatch @prefill$async_dispatch_4 {}
    stream.cmd.dispatch @prefill$async_dispatch_3 {}
  }
  util.func public @prefill(%arg0: i64) {
    util.call @prefill$async(%arg0)
  }
}
"""  # noqa: E501


def test_pipelines_of_vulkan() -> None:
    text = CONFIGURED.replace("#iree_gpu.pipeline<TileAndFuse>", "#iree_gpu.spirv_pipeline<Coop>")
    assert contractions(text)[0].pipeline == "Coop [64,1,1]"


def test_what_code_generation_chose() -> None:
    assert contractions(CONFIGURED) == [
        Contraction(
            "prefill$async_dispatch_3_matmul_like_Dx64x32_f16xf16xf32",
            "TileAndFuse [64,1,1]",
            "workgroup [1,32,32,0]; reduction [0,0,0,2]; subgroup [0,1,1,0];"
            " NV_MMA_SYNC_F32_16x8x16_F16",
        )
    ]
    assert dispatch_counts(CONFIGURED) == {"prefill": 3}


@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_every_target_has_the_arms_of_a_fair_comparison(kind: str) -> None:
    arms = arms_for(kind)
    assert {arm.family for arm in arms} == {"none", "op", "input", "static"}
    assert [arm.name for arm in arms if arm.program_of] == ["input, untold"]
    assert len({arm.name for arm in arms}) == len(arms)
    with pytest.raises(InputError, match=f"{kind} has no 'magic'"):
        arms_for(kind, "magic")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("arms")
    compile_arms(
        CompileRequest("bundled:tiny-dense", layers=1),
        folder,
        lambda _: None,
        (1, 33),
        "op: data tiling;input;input, untold;static",
    )
    return measure_arms(folder, say=lambda _: None, repetitions=2)


def test_reduced(result: dict[str, Any]) -> None:
    """Every arm ran, answered the same, and says what it cost and why it is as it is."""
    found = result["targets"]["cpu"]
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert list(arms) == ["none", "op: data tiling", "input", "input, untold", "static"]
    for arm in arms.values():
        assert "error" not in arm
        assert arm["compile_seconds"] > 0 and arm["program_bytes"] > 10_000
        assert arm["dispatches"]["decode"] > 5
        assert arm["peak_rss_mb"] > 10
        assert len(arm["contractions"]) >= 7
    tiled = {c["pipeline"] for c in arms["op: data tiling"]["contractions"]}
    assert "Mmt4dTilingExpert" in tiled
    assert "Mmt4dTilingExpert" not in {c["pipeline"] for c in arms["none"]["contractions"]}
    assert {f for f in arms["static"]["dispatches"] if f.startswith("prefill")} == {
        "prefill_32",
        "prefill_64",
    }
    assert [row["tokens"] for row in found["lengths"]] == [1, 33]
    for row in found["lengths"]:
        assert row["agree"], row
        assert set(row["arms"]) == set(arms)
        for name, one in row["arms"].items():
            padded = name in ("input", "input, untold", "static")
            assert one["padded"] == (-(-row["tokens"] // 32) * 32 if padded else row["tokens"])
            assert 2 <= len(one["seconds"]) <= 30
            speeds = one["tokens_per_second"], one["padded_per_second"]
            assert speeds[1] / speeds[0] == pytest.approx(one["padded"] / row["tokens"])
    assert len(speedups(found, "input", "none")) == 1  # a single token is left out
    text = to_markdown(tables_of(result))
    for word in ("Mmt4dTilingExpert", "× static", "padded tokens per second"):
        assert word in text


def test_a_weak_baseline_is_called_one() -> None:
    (weak,) = [arm for arm in arms_for("cpu") if arm.weak]
    assert weak.name == "op: pad" and "does nothing" in weak.weak


def test_bad_input(tmp_path: Path) -> None:
    def run(lengths: tuple[int, ...] | None = None, **options: str) -> None:
        request = CompileRequest(**{"model": "bundled:tiny-dense", **options})
        compile_arms(request, tmp_path / "out", lambda _: None, lengths)

    with pytest.raises(InputError, match="target 'abacus'"):
        run(target="abacus")
    with pytest.raises(InputError, match="must be at least 1"):
        run(lengths=(0, 4))
    with pytest.raises(InputError, match="at most 4096"):
        run(lengths=(5000,))
    with pytest.raises(ModelError, match="nothing"):
        run(model="bundled:nothing")
    with pytest.raises(InputError, match="no compiled arms"):
        measure_arms(tmp_path, say=lambda _: None)
