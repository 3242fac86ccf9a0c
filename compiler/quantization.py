"""Where quantised weights meet the archive and the manifest."""

from __future__ import annotations

import torch

from edgec.compiler.options import CompileOptions
from edgec.compiler.targets import Target
from edgec.models.check import CheckedWeights
from edgec.models.linear import SCALES
from edgec.models.load import LoadedModel
from edgec.models.quantize import WeightFormat, quantize, quantize_experts

__all__ = ["LAYOUT", "StoredWeights", "describe_quantization"]

LAYOUT = "panel16x4"
"""The packed layout's name in manifests, see docs/quantisation.md."""


class StoredWeights:
    """A checkpoint's tensors as the archive stores them, one at a time.

    A quantised parameter and its scales are asked for one after the other, and are made together:
    the scales wait for their turn.
    """

    def __init__(
        self, model: LoadedModel, weights: CheckedWeights, form: WeightFormat | None
    ) -> None:
        self._quantized = model.quantized
        self._weights = weights
        self._form = form
        self._waiting: dict[str, torch.Tensor] = {}

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the archive's shape. See `quantize` for errors."""
        if name in self._waiting:
            return self._waiting.pop(name)
        # Blocks fit in a core's cache. On a busy machine torch's threads wait for each other, and
        # one alone was 5 to 15 times as fast.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._read(name)
        finally:
            torch.set_num_threads(threads)

    def _read(self, name: str) -> torch.Tensor:
        matrix = self._quantized.get(name)
        if self._form is None or matrix is None:
            return self._weights.read(name)
        if matrix.experts:
            slices = self._weights.read_experts(name, matrix.experts)
            each = (s.T if matrix.transposed else s for s in slices)
            packed, scales = quantize_experts(name, each, matrix.experts, self._form)
        else:
            packed, scales = quantize(name, self._weights.read(name), self._form)
        self._waiting[name + SCALES] = scales
        return packed


def describe_quantization(
    model: LoadedModel, options: CompileOptions, targets: tuple[Target, ...]
) -> dict[str, str]:
    """What the manifest says about the weights' format.

    `unquantized` names the matrices that keep `dtype`: those of modules that edgec leaves alone.
    `activations` says what each target's program does with the input of a quantised layer.
    """
    if options.quantize == "none":
        return {"weights": "none"}
    scales = {id(matrix.scales) for matrix in model.quantized.values()}
    kept = [
        name
        for name, parameter in model.parameters.items()
        if parameter.ndim > 1
        and not name.endswith("_bias")
        and name not in model.quantized
        and id(parameter) not in scales
    ]
    return {
        "weights": options.quantize,
        "group_size": options.group_size,
        "scales": "f16",
        "layout": LAYOUT,
        "activations": ", ".join(f"{t.name} {_activations(t)}" for t in targets),
        "unquantized": ", ".join(kept),
    }


def _activations(target: Target) -> str:
    return f"i8 in blocks of 32 ({target.kernels})" if target.kernels else "f32"
