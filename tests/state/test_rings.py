"""Layers with a sliding window keep a ring of rows: against transformers eager, and in bytes."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.compiler.test_decode_in_place import commands, large_copies
from tests.moe.parity import VOCABULARY, make

import edgec
from edgec.compiler import export
from edgec.compiler.options import CompileOptions
from edgec.errors import ArtifactError
from edgec.models.plugs.discovery import Kept
from edgec.runtime import program
from edgec.runtime.sequence import Sequence, step_together

WINDOW, CHUNK, CONTEXT = 40, 64, 480
ROWS, RING = 512, 128  # CONTEXT and a block; WINDOW - 1 and CHUNK, in blocks of 32
TOLERANCE = 1e-4  # of the range of the logits
DECODED, FOLLOW_UP = 90, 70
# In the chunk that ends 97 tokens, and in that of 300, the last token sees the chunk before.
PROMPTS = (1, 31, 32, 33, 97, 300)

_GENERIC = f"cpu:{platform.machine()}-linux-gnu"  # has none of the kernels
_MIXED = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
    "head_dim": 16,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma3_text": _MIXED,
    "gemma2": _MIXED,
    "mistral": {"sliding_window": WINDOW},
    "gpt_oss": _MIXED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "cohere2": _MIXED,
    "modernbert-decoder": {"local_attention": 2 * WINDOW, "num_hidden_layers": 3},
}


def build(folder: Path, family: str, **options: Any) -> tuple[Any, edgec.Session]:
    """A tiny random model in eager form, and compiled."""
    model = make(folder / "model", family, FAMILIES[family])
    artifact = folder / "model.edgec"
    options = {"ctx_size": CONTEXT, "chunk_size": CHUNK} | options
    edgec.compile(str(folder / "model"), output=artifact, **options)
    return model, edgec.Session(artifact)


def random_ids(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (count,), generator=generator).tolist()


def run(
    sequence: Sequence, length: int, picks: list[int] | None = None
) -> tuple[list[int], list[tuple[int, Any]]]:
    """A prompt, greedy steps past two windows, a follow-up of two chunks, a step.

    Args:
        picks: The tokens to decode, where they are not to be the greedy ones.

    Returns:
        All tokens, and the logits after some numbers of them.
    """
    tokens, found = random_ids(length, length), []
    step = sequence.extend(tokens)
    for at in range(DECODED):
        found.append((len(tokens), step.logits()))
        tokens.append(int(found[-1][1].argmax()) if picks is None else picks[at])
        step = sequence.step(tokens[-1])
    new = random_ids(FOLLOW_UP, length + 1)
    tokens += new
    found.append((len(tokens), sequence.extend(new).logits()))
    tokens.append(int(found[-1][1].argmax()) if picks is None else picks[-1])
    found.append((len(tokens), sequence.step(tokens[-1]).logits()))
    return tokens, found


def error(model: Any, session: edgec.Session, length: int) -> float:
    """The largest error of such a run, of the range of the logits; tokens must be eager's."""
    tokens, found = run(session.share().sequence, length)
    with torch.no_grad():
        eager = model(torch.tensor([tokens])).logits[0].numpy()
    worst = 0.0
    for position, logits in found:
        wanted = eager[position - 1]
        worst = max(worst, float(np.abs(logits - wanted).max() / (wanted.max() - wanted.min())))
        assert logits.argmax() == wanted.argmax(), f"{length}, {position}: error {worst:.1e}"
    return worst


def rows_of(session: edgec.Session) -> list[tuple[str, int, int]]:
    return [(b.kind, b.shape[0], b.window) for b in session.artifact.manifest.state]


def test_parity_and_bytes(tmp_path: Path) -> None:
    """Both kinds of layer in one model."""
    model, session = build(tmp_path, "gemma3_text", dump_ir=tmp_path / "ir")
    assert rows_of(session) == [("window", RING, WINDOW)] * 2 + [("attention", ROWS, 0)] * 2
    row = 2 * 16 * 4
    ring, full = RING * row, ROWS * row
    assert (ring, full) == (16384, 65536)
    assert session.artifact.manifest.memory.state_per_sequence == 2 * (ring + full)
    assert session.sequence.state_bytes == 2 * (ring + full)
    # And a copy of the windows, once there is a checkpoint.
    session.sequence.extend([1])
    session.sequence.checkpoint()
    assert session.sequence.state_bytes == 2 * (ring + full + WINDOW * row)
    session.reset()
    for length in PROMPTS:
        assert error(model, session, length) <= TOLERANCE
    # The rings are updated where they lie.
    functions = commands(tmp_path / "ir" / "cpu.input.mlir", tmp_path)
    for size in (ring, full):
        assert large_copies(functions["decode"], size) == []
        copies = " ".join(large_copies(functions["prefill"], size))
        assert f"%c{size}" in functions["prefill"] and f"%c{size}" not in copies


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_families(tmp_path: Path, family: str) -> None:
    model, session = build(tmp_path, family)
    kinds = {kind for kind, _, _ in rows_of(session)}
    assert kinds == ({"window"} if family == "mistral" else {"window", "attention"})
    for length in PROMPTS:
        assert error(model, session, length) <= TOLERANCE


@pytest.mark.parametrize(
    ("window", "context", "expected"),
    [
        (WINDOW, 96, ("attention", 128, 0, 0)),
        (WINDOW, 128, ("window", RING, WINDOW, 0)),
        (WINDOW, 160, ("window", RING, WINDOW, WINDOW)),
        (WINDOW, 1 << 17, ("window", RING, WINDOW, WINDOW)),
        (2, 96, ("window", 96, 2, 2)),
        (1, 96, ("window", 64, 1, 1)),
        (4096, 8192, ("window", 4160, 4096, 0)),  # a copy of the window would undo the saving
        (0, 8192, ("attention", 8224, 0, 0)),
    ],
)
def test_rows_of_a_buffer(window: int, context: int, expected: tuple[str, int, int, int]) -> None:
    """A ring where it is shorter than the context, with its checkpoint where both are."""
    options = CompileOptions(ctx_size=context, chunk_size=CHUNK)
    kept = Kept("attention", (2, 16), window)
    buffer = export._attention_buffer("layers.0.key", kept, "f32", options)
    assert (buffer.kind, buffer.shape[0], buffer.window, buffer.checkpoint) == expected
    assert buffer.shape[0] + buffer.checkpoint <= context + 32


@pytest.mark.slow
def test_a_ring_that_is_too_small_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: room for the window and not for a chunk. Refused; and where it is not, wrong."""
    monkeypatch.setattr(export, "_ring_rows", lambda window, chunk: 64)
    with pytest.raises(ArtifactError, match="64 rows, too few for a window of 40 and a call of 64"):
        build(tmp_path, "mistral")
    monkeypatch.setattr(program, "check_contract", lambda where, manifest: None)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    session = edgec.Session(tmp_path / "model.edgec")
    with pytest.raises(AssertionError, match="error"):
        error(model.eval(), session, 97)


@pytest.mark.slow
@pytest.mark.parametrize("kv_dtype", ["int8", "f16", "bf16"])
@pytest.mark.parametrize("kernels", [True, False])
def test_narrow_rings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kv_dtype: str, kernels: bool
) -> None:
    """What the type loses aside, a ring gives what a row for each position gives."""
    options = {"kv_dtype": kv_dtype, "target": "cpu" if kernels else _GENERIC}
    _, ring = build(tmp_path / "ring", "gemma3_text", **options)
    monkeypatch.setattr(export, "_ring_rows", lambda window, chunk: 1 << 20)
    _, every = build(tmp_path / "every", "gemma3_text", **options)
    assert {kind for kind, _, _ in rows_of(every)} == {"attention"}
    assert {kind for kind, _, _ in rows_of(ring)} == {"attention", "window"}
    for length in PROMPTS:
        tokens, wanted = run(every.share().sequence, length)
        picks = [*tokens[length : length + DECODED], tokens[-1]]
        _, found = run(ring.share().sequence, length, picks)
        for (_, a), (_, b) in zip(found, wanted, strict=True):
            assert np.abs(a - b).max() <= 1e-5 * (b.max() - b.min())


@pytest.mark.slow
def test_a_batch(tmp_path: Path) -> None:
    """Sequences at different places of their rings in one step."""
    model, session = build(tmp_path, "gemma3_text", batch=(1, 4))
    prompts = [random_ids(count, count) for count in (1, 70, 127, 190)]
    sequences = [session.share().sequence for _ in prompts]
    steps = [s.extend(p) for s, p in zip(sequences, prompts, strict=True)]
    for _ in range(DECODED):
        tokens = [step.token() for step in steps]
        steps = step_together(list(zip(sequences, tokens, strict=True)))
        for prompt, token in zip(prompts, tokens, strict=True):
            prompt.append(token)
    for prompt, step in zip(prompts, steps, strict=True):
        with torch.no_grad():
            eager = model(torch.tensor([prompt])).logits[0].numpy()
        first = len(prompt) - DECODED - 1
        assert prompt[first + 1 :] == eager[first:-1].argmax(-1).tolist()
        assert np.abs(step.logits() - eager[-1]).max() <= TOLERANCE * np.ptp(eager[-1])


@pytest.mark.slow
@pytest.mark.vulkan
@pytest.mark.xdist_group("vulkan")
@pytest.mark.parametrize("family", ["gemma3_text", "cohere2"])
def test_parity_on_vulkan(tmp_path: Path, family: str) -> None:
    model, session = build(tmp_path, family, target="vulkan:llvmpipe")
    for length in PROMPTS:
        assert error(model, session, length) <= TOLERANCE
