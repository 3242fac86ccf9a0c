"""The final output of `edgec compile`, about artifacts made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from edgec.artifact import Artifact

NAMES = ", ".join(
    [*(f"blocks.{i}.experts.w1" for i in range(12)), "blocks.0.experts.w2", "embed.weight"]
)


@pytest.mark.parametrize(("kept", "told"), [(18_800, True), (100, False), (None, False)])
def test_what_is_not_quantised(
    edgec_in_process: Callable[..., Any],
    hand_made: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    kept: int | None,
    told: bool,
) -> None:
    """From a share of the weights on, which routers do not reach; by `inspect` in any case."""
    described = {"weights": "int4", "unquantized": NAMES}
    if kept is not None:  # artifacts of before do not say how much it is
        described["unquantized_bytes"] = str(kept)
    manifest = dataclasses.replace(hand_made.manifest, quantization=described)
    (hand_made.path / "manifest.json").write_text(manifest.to_json())
    monkeypatch.setattr(
        "edgec.cli.compile.compile_with_progress", lambda *_, **__: Artifact.open(hand_made.path)
    )
    together = "blocks.*.experts.w1 (12), blocks.*.experts.w2, embed.weight"
    done = edgec_in_process("compile", "m", "--quantize", "int4")
    assert done.code == 0
    line = f"not quantised: 94% of the weights' bytes, 18.8 kB: {together}\n"
    assert (line in done.stderr) == told
    shown = " ".join(edgec_in_process("inspect", hand_made.path).stdout.split())
    much = {18_800: " (18.8 kB)", 100: " (100 B)", None: ""}[kept]
    assert f"unquantized {together}{much}" in shown
    assert "unquantized bytes" not in shown
