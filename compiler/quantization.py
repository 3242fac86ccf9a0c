"""Puts quantised weights into the archive and describes them in the manifest."""

from __future__ import annotations

import torch

from edgec.compiler.targets.target import Target
from edgec.models.load import LoadedModel
from edgec.models.plugs.linear import WEIGHT_SCALES
from edgec.models.weights.check import CheckedWeights
from edgec.models.weights.quantize import quantize, quantize_experts
from edgec.options import CompileOptions
from edgec.weight_formats import WeightFormat

__all__ = ["LAYOUT", "StoredWeights", "describe_quantization", "weight_format", "weight_formats"]

LAYOUT = "panel16x4"
"""The packed layout's name in manifests, see docs/quantisation.md."""


def weight_format(name: str, options: CompileOptions) -> WeightFormat | None:
    """The format of matrices that `--quantize` calls `name`; None for floats."""
    if name == "none":
        return None
    group = options.group_size or "32"
    bits = int(name.removeprefix("int"))
    offset = "zero_point" if options.asymmetric and bits == 4 else ""
    return WeightFormat(bits, None if group == "channel" else int(group), offset)


class StoredWeights:
    """A checkpoint's tensors as the archive stores them, one at a time.

    A quantised parameter and its scales are asked for one after the other, and are made together:
    the scales wait for their turn.
    """

    def __init__(self, model: LoadedModel, weights: CheckedWeights) -> None:
        self._quantized = model.quantized
        self._weights = weights
        self._waiting: dict[str, torch.Tensor] = {}

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the archive's shape. See `quantize` for errors."""
        if name in self._waiting:
            return self._waiting.pop(name)
        # On a busy machine torch's threads wait for each other, and one alone was 5 to 15 times as
        # fast. What takes long, quantisation and random weights, has threads of its own.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._read(name)
        finally:
            torch.set_num_threads(threads)

    def _read(self, name: str) -> torch.Tensor:
        matrix = self._quantized.get(name)
        if matrix is None:
            return self._weights.read(name)
        if matrix.experts:
            slices = self._weights.read_experts(name, matrix.experts)
            each = (s.T if matrix.transposed else s for s in slices)
            packed, scales = quantize_experts(name, each, matrix.experts, matrix.weight_format)
        else:
            packed, scales = self._weights.read_quantized(name) or quantize(
                name, self._weights.read(name), matrix.weight_format
            )
        self._waiting[name + WEIGHT_SCALES] = scales
        return packed


def weight_formats(model: LoadedModel) -> list[str]:
    """The formats of the model's quantised matrices, by name: int4, int8, both or none."""
    return sorted({f"int{matrix.weight_format.bits}" for matrix in model.quantized.values()})


def describe_quantization(model: LoadedModel, targets: tuple[Target, ...]) -> dict[str, str]:
    """The manifest's record of the weights' format.

    `unquantized` names the matrices that are left as floats, those of modules that edgec leaves
    alone, and `unquantized_bytes` says how much of the archive they are.
    `activations` says what each target's program does with the input of a quantised layer.
    """
    if not model.quantized:
        return {"weights": "none"}
    formats = {matrix.weight_format for matrix in model.quantized.values()}
    plain_experts = any(m.experts and not m.weight_format.offset for m in model.quantized.values())
    zero_points = "f16, experts none" if plain_experts else "f16"
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
        "weights": ", ".join(weight_formats(model)),
        "group_size": ", ".join(sorted({str(each.group or "channel") for each in formats})),
        "scales": "f16",
        "zero_points": zero_points if any(each.offset for each in formats) else "none",
        "layout": LAYOUT,
        "activations": ", ".join(f"{t.name} {_activations(t)}" for t in targets),
        "unquantized": ", ".join(kept),
        "unquantized_bytes": str(sum(model.parameters[name].nbytes for name in kept)),
    }


def _activations(target: Target) -> str:
    return f"i8 in blocks of 32 ({target.kernels})" if target.kernels else "f32"
