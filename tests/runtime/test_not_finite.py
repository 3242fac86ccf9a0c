"""Logits that are not finite are an error in greedy generation, as they are in sampling."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgec.archive import archive_head, read_archive
from edgec.artifact import Artifact, sha256_of
from edgec.errors import DeviceError
from edgec.manifest import MANIFEST_NAME, FileRecord
from edgec.runtime import Engine, LoadedModel, Session

Damaged = Callable[[str, slice, float], Path]


@pytest.fixture(scope="module")
def one_layer(compile_once: Callable[..., Artifact]) -> Artifact:
    """A layer of the bundled mixture of experts, for the CPU and for llvmpipe."""
    return compile_once(
        "tiny-moe-layer", "bundled:tiny-moe", target="cpu,vulkan:llvmpipe", layers=1, ctx_size=64,
        chunk_size=64, batch=(1, 4),
    )  # fmt: skip


@pytest.fixture
def damaged(one_layer: Artifact, tmp_path: Path) -> Damaged:
    """`damaged(tensor, where, value)`: an artifact in which numbers of a tensor are `value`."""

    def make(tensor: str, where: slice, value: float) -> Path:
        folder = Path(shutil.copytree(one_layer.path, tmp_path / "damaged.edgec"))
        weights = folder / "weights.irpa"
        content = bytearray(weights.read_bytes())
        sizes = read_archive(memoryview(content))
        at = archive_head(sizes).offsets[tensor]
        np.frombuffer(content, np.float32, sizes[tensor] // 4, at)[where] = value
        weights.write_bytes(content)
        record = FileRecord(len(content), sha256_of(weights))
        manifest = one_layer.manifest
        manifest = dataclasses.replace(manifest, files=manifest.files | {weights.name: record})
        (folder / MANIFEST_NAME).write_text(manifest.to_json())
        return folder

    return make


ROW = slice(700 * 256, 701 * 256)
"""A row of the embedding, which is the head too: its token's logit alone is no number."""

DAMAGES = {
    "one is NaN": ("model.embed_tokens.weight", ROW, np.nan),
    "one is infinite or NaN": ("model.embed_tokens.weight", ROW, np.inf),
    "one overflows": ("model.embed_tokens.weight", ROW, 3e38),
    "all are NaN": ("model.norm.weight", slice(None), np.nan),
}
DEVICES = ["cpu", pytest.param("vulkan", marks=pytest.mark.vulkan)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_not_finite(damaged: Damaged, damage: str, device: str) -> None:
    model = LoadedModel.load(damaged(*DAMAGES[damage]), device)
    session = Session(model)
    prompt = [5, 6, 7]
    for options in ({"do_sample": False}, {"temperature": 1.0, "seed": 1}, {"do_sample": False}):
        with pytest.raises(DeviceError, match="logits are not finite"):
            session.generate(prompt, max_new_tokens=8, **options)
    # In the steps after it too, which are queued before the token is read.
    session.reset()
    step = session.sequence.extend(prompt)
    steps = [step, step := session.sequence.step(step), session.sequence.step(step)]
    assert steps[-1].token() == -1
    with Engine(model) as engine:
        requests = [engine.submit([*prompt, n], max_new_tokens=8) for n in range(4)]
        for request in requests:
            with pytest.raises(DeviceError, match="logits are not finite"):
                request.result()


@pytest.mark.parametrize("device", DEVICES)
def test_an_id_that_is_none_reads_no_memory(one_layer: Artifact, device: str) -> None:
    """The nearest one is taken: what a manifest says of the vocabulary cannot end the process."""
    program = LoadedModel.load(one_layer, device).program

    def after(token: int) -> np.ndarray:
        state = program.create_state()
        block = np.full((1, 32), token, np.int32)
        program.prefill(block, 0, 3, state).wait()
        (output,) = program.decode([(token, 3, state)])
        return output.logits()

    last = program.manifest.model.vocab_size - 1
    for token, nearest in ((-1, 0), (-(2**31), 0), (last + 1, last), (2**31 - 1, last)):
        assert np.array_equal(after(token), after(nearest))
