"""`edgec inspect` on an artifact made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from edgec.artifact import Artifact

Edgec = Callable[..., Any]


def test_table(edgec_in_process: Edgec, hand_made: Artifact) -> None:
    done = edgec_in_process("inspect", hand_made.path)
    assert done.code == 0, done.stderr
    for text in (
        "preset:qwen3-0.6b",
        "596 M",
        "1024 tokens (the model's own: 40960)",
        "32 to 256 tokens a call, padded to a multiple of 32",
        "cpu.vmfb, 7.0 kB, driver local-task, needs avx2",
        "56 × attention f16[1056,8,128] = 121 MB per sequence",
        "weights 20.0 kB + 121 MB per sequence",
        "edgec 0.1.0, iree 3.13.0",
        "tokenizer.json",
    ):
        assert text in done.stdout
    assert done.stdout.splitlines()[1] == f"sha256:{hand_made.manifest.sha256}"


def test_json_is_the_manifest(edgec_in_process: Edgec, hand_made: Artifact) -> None:
    done = edgec_in_process("inspect", hand_made.path, "--json")
    assert json.loads(done.stdout) == json.loads((hand_made.path / "manifest.json").read_text())


def test_verify(edgec_in_process: Edgec, hand_made: Artifact) -> None:
    done = edgec_in_process("inspect", hand_made.path, "--verify")
    assert (done.code, "all 3 files match" in done.stdout) == (0, True)
    file = hand_made.path / "weights.irpa"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    done = edgec_in_process("inspect", hand_made.path, "--verify")
    assert done.code == 2
    assert "weights.irpa differs from its SHA-256" in done.stderr
