"""Models that come quantised, compiled: against transformers eager on the dequantised weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.gguf.files import write_gguf
from tests.models.gguf.test_gguf import MIXED, make_model
from tests.models.weights.test_prequantized import write_checkpoint

from edgec import Session
from edgec.artifact import Artifact
from edgec.compiler.targets import parse_targets
from edgec.models.sources.resolve import resolve
from edgec.models.weights.packing import dequantize
from edgec.models.weights.quantize import quantize
from edgec.models.weights.source import stored_formats
from edgec.weight_formats import WeightFormat

MOST = 1e-3  # of the logits' range: generated code, activations in f32


def as_stored(model: Any, source: Any, rest: WeightFormat | None) -> None:
    """Puts into the model what an artifact holds of its matrices."""
    formats = stored_formats(source.weights)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            form = formats.get(name, rest)
            if name in formats:
                pair = source.weights.read_quantized(name)
            elif parameter.ndim == 2 and form is not None:
                pair = quantize(name, source.weights.read(name), form)
            else:
                continue
            parameter.copy_(dequantize(*pair, form, parameter.shape[0]))


@pytest.mark.parametrize("kind", ["gguf", "gptq"])
def test_imported(
    kind: str,
    compile_once: Callable[..., Artifact],
    tmp_path_factory: pytest.TempPathFactory,
    relative_error: Callable[..., float],
) -> None:
    """Every type of GGUF in one file; what has no integers is quantised as asked, or not."""
    if parse_targets("cpu")[0].requirements["architecture"] != "x86_64":
        pytest.skip("the baseline program is for x86-64")
    model = make_model("qwen2", seed=1)
    path: Path = tmp_path_factory.mktemp("imported") / "model.gguf"
    if kind == "gguf":
        write_gguf(path, model, lambda name: MIXED[name])
    else:
        path = path.parent
        write_checkpoint(path, model, "gptq", symmetric=False)
    quantize = "int8" if kind == "gguf" else "none"
    artifact = compile_once(
        f"imported-{kind}", str(path), ctx_size=64, quantize=quantize, target="cpu:x86_64-linux-gnu"
    )
    described = artifact.manifest.quantization
    assert described["weights"] == ("int4, int8" if kind == "gguf" else "int4")
    assert described["zero_points"] == "f16"
    assert {b.dtype for b in artifact.manifest.state} == {"f16"}
    assert described["unquantized"] == ("" if kind == "gguf" else "model.embed_tokens.weight")
    as_stored(model, resolve(str(path)), WeightFormat(8, 32) if kind == "gguf" else None)
    ids = torch.randint(0, 250, (40,), generator=torch.Generator().manual_seed(2)).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    session = Session(artifact)
    found = [session.prefill(ids[:35])] + [session.decode(token) for token in ids[35:]]
    for position, logits in enumerate(found, start=34):
        assert relative_error(logits, expected[position]) <= MOST
