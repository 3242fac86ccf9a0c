"""Hugging Face checkpoints that come quantised: GPTQ, AWQ and compressed-tensors.

Their integers, scales and zero points become edgec's formats as they are. Layouts: AutoGPTQ's and
GPTQModel's `qlinear`, AutoAWQ's `WQLinear_GEMM`, and `PackedQuantizationCompressor` of
compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from edgec.errors import ModelError
from edgec.models.weights.packing import Scales, pack, pack_scales
from edgec.models.weights.source import TensorInfo, WeightSource
from edgec.weight_formats import PANEL, WeightFormat

__all__ = ["PrequantizedWeights", "check_quantization", "prequantized"]

_REMEDY = "give the original model and --quantize"
_BLOCK = 1 << 18  # weights unpacked at a time


class _Layout(Protocol):
    """How a method stores a matrix `[N, K]` in several tensors, named `PREFIX.PART`."""

    @property
    def bits(self) -> int:
        """4 or 8."""

    @property
    def packed(self) -> str:
        """The part that every quantised matrix has."""

    @property
    def parts(self) -> tuple[str, ...]:
        """All parts, those that some checkpoints lack included."""

    def shape(self, parts: Mapping[str, TensorInfo]) -> tuple[int, int]:
        """N and K."""

    def order(self, matrix: _Matrix) -> torch.Tensor | None:
        """The group of each column, if that is stored."""

    def integers(self, matrix: _Matrix, begin: int, end: int) -> torch.Tensor:
        """u8 `[end - begin, K]`, 0 .. 2^bits - 1."""

    def scales(self, matrix: _Matrix) -> torch.Tensor:
        """Float `[N, groups]`."""

    def zeros(self, matrix: _Matrix) -> torch.Tensor:
        """i32 `[N, groups]`, the integers that stand for 0."""


@dataclass(frozen=True)
class _Matrix:
    source: WeightSource
    prefix: str
    shape: tuple[int, int]

    def read(self, part: str) -> torch.Tensor:
        return self.source.read(f"{self.prefix}.{part}")

    def has(self, part: str) -> bool:
        return f"{self.prefix}.{part}" in self.source.tensors()


def _fields(words: torch.Tensor, bits: int) -> torch.Tensor:
    """i32 `[..., n]` to u8 `[..., n, 32 / bits]`, the low bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return (words[..., None] >> shifts & (1 << bits) - 1).to(torch.uint8)


@dataclass(frozen=True)
class _Gptq:
    """`qweight` i32 `[K bits / 32, N]`, `qzeros` i32 `[groups, N bits / 32]`, `scales`, `g_idx`.

    Files of format `gptq` store each zero point less one.
    """

    bits: int
    plus: int
    packed: str = "qweight"
    parts: tuple[str, ...] = ("qweight", "qzeros", "scales", "g_idx")

    def shape(self, parts: Mapping[str, TensorInfo]) -> tuple[int, int]:
        words, rows = parts["qweight"].shape
        return rows, words * 32 // self.bits

    def order(self, matrix: _Matrix) -> torch.Tensor | None:
        return matrix.read("g_idx") if matrix.has("g_idx") else None

    def integers(self, matrix: _Matrix, begin: int, end: int) -> torch.Tensor:
        fields = _fields(matrix.read("qweight")[:, begin:end], self.bits)
        return fields.permute(1, 0, 2).reshape(end - begin, -1)

    def scales(self, matrix: _Matrix) -> torch.Tensor:
        return matrix.read("scales").T

    def zeros(self, matrix: _Matrix) -> torch.Tensor:
        fields = _fields(matrix.read("qzeros"), self.bits)
        return fields.flatten(1).T.to(torch.int32) + self.plus


_INTERLEAVED = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class _Awq:
    """`qweight` i32 `[K, N / 8]` and `qzeros` i32 `[groups, N / 8]`, rows interleaved; `scales`."""

    bits: int = 4
    packed: str = "qweight"
    parts: tuple[str, ...] = ("qweight", "qzeros", "scales")

    def shape(self, parts: Mapping[str, TensorInfo]) -> tuple[int, int]:
        columns, words = parts["qweight"].shape
        return words * 8, columns

    def order(self, matrix: _Matrix) -> torch.Tensor | None:
        return None

    def _rows(self, words: torch.Tensor) -> torch.Tensor:
        """i32 `[K, n]` to u8 `[8 n, K]`."""
        fields = _fields(words, 4)[..., torch.argsort(torch.tensor(_INTERLEAVED))]
        return fields.flatten(1).T

    def integers(self, matrix: _Matrix, begin: int, end: int) -> torch.Tensor:
        return self._rows(matrix.read("qweight")[:, begin // 8 : -(-end // 8)])

    def scales(self, matrix: _Matrix) -> torch.Tensor:
        return matrix.read("scales").T

    def zeros(self, matrix: _Matrix) -> torch.Tensor:
        return self._rows(matrix.read("qzeros")).to(torch.int32)


@dataclass(frozen=True)
class _PackQuantized:
    """`weight_packed` i32 `[N, K bits / 32]`, `weight_scale` `[N, groups]`, and where not
    symmetric `weight_zero_point` i32 `[N bits / 32, groups]`; `weight_shape` has N and K."""

    bits: int
    packed: str = "weight_packed"
    parts: tuple[str, ...] = (
        "weight_packed",
        "weight_scale",
        "weight_zero_point",
        "weight_shape",
        "weight_g_idx",
    )

    def shape(self, parts: Mapping[str, TensorInfo]) -> tuple[int, int]:
        rows, words = parts["weight_packed"].shape
        return rows, words * 32 // self.bits

    def order(self, matrix: _Matrix) -> torch.Tensor | None:
        return matrix.read("weight_g_idx") if matrix.has("weight_g_idx") else None

    def integers(self, matrix: _Matrix, begin: int, end: int) -> torch.Tensor:
        return _fields(matrix.read("weight_packed")[begin:end], self.bits).flatten(1)

    def scales(self, matrix: _Matrix) -> torch.Tensor:
        return matrix.read("weight_scale")

    def zeros(self, matrix: _Matrix) -> torch.Tensor:
        scales = matrix.read("weight_scale")
        if not matrix.has("weight_zero_point"):
            return torch.full(scales.shape, 1 << self.bits - 1, dtype=torch.int32)
        fields = _fields(matrix.read("weight_zero_point").T, self.bits)
        return fields.flatten(1).T[: scales.shape[0]].to(torch.int32)


def check_quantization(model: str, config: Mapping[str, Any]) -> None:
    """Refuses a `quantization_config` that edgec cannot read.

    Raises:
        ModelError: the method, or a variant of it, is not supported.
    """
    _layout(model, config)


def _layout(model: str, config: Mapping[str, Any]) -> _Layout:
    method = config.get("quant_method")
    bits = config.get("bits", 4)

    def refuse(what: str) -> ModelError:
        return ModelError(
            f"model {model}: its weights are quantised already ({what}), which is not supported",
            _REMEDY,
        )

    if method == "gptq":
        layout = config.get("checkpoint_format", "gptq")
        if layout not in ("gptq", "gptq_v2"):
            raise refuse(f"gptq in the format {layout}")
        if not _one_of(bits, 4, 8):
            raise refuse(f"gptq with {bits} bits")
        return _Gptq(bits, plus=1 if layout == "gptq" else 0)
    if method == "awq":
        version = str(config.get("version", "gemm")).lower()
        if version != "gemm" or not _one_of(bits, 4):
            raise refuse(f"awq, version {version}, {bits} bits")
        return _Awq()
    if method == "compressed-tensors":
        return _PackQuantized(_compressed_bits(config, refuse))
    raise refuse(str(method or "unknown method"))


def _compressed_bits(config: Mapping[str, Any], refuse: Any) -> int:
    listed: Any = config.get("config_groups")
    groups: list[Any] = list(listed.values()) if isinstance(listed, dict) else []
    weights: list[Any] = [g.get("weights") if isinstance(g, dict) else None for g in groups]
    if not weights or not all(isinstance(w, dict) for w in weights):
        raise refuse("compressed-tensors, without config_groups that say how")
    found = [(w.get("type", "int"), w.get("num_bits")) for w in weights]
    bits = found[0][1]
    if config.get("format") != "pack-quantized" or any(f != ("int", bits) for f in found):
        layout = ", ".join(sorted({f"{kind} {width}" for kind, width in found}))
        raise refuse(f"compressed-tensors, {config.get('format')}, {layout}")
    if not _one_of(bits, 4, 8):
        raise refuse(f"compressed-tensors with {bits} bits")
    if any(group.get("input_activations") for group in groups):
        raise refuse("compressed-tensors with quantised activations")
    return int(bits)


def _one_of(value: Any, *known: int) -> bool:
    """Whether a value from JSON is one of these integers: 4.0 and true are none."""
    return type(value) is int and value in known


def prequantized(
    model: str, source: WeightSource, config: Mapping[str, Any]
) -> PrequantizedWeights:
    """The checkpoint's tensors, read as its `quantization_config` says.

    Raises:
        ModelError: the method is not supported, or a matrix is not what the method says.
    """
    return PrequantizedWeights(source, _layout(model, config))


class PrequantizedWeights:
    """A `QuantizedSource` over a checkpoint with packed matrices; see `prequantized`."""

    def __init__(self, source: WeightSource, layout: _Layout) -> None:
        self._source = source
        self._layout = layout
        stored = source.tensors()
        self._matrices: dict[str, _Matrix] = {}
        for name in stored:
            prefix, _, leaf = name.rpartition(".")
            if leaf == self._layout.packed:
                parts = {
                    p: stored[f"{prefix}.{p}"] for p in layout.parts if f"{prefix}.{p}" in stored
                }
                self._matrices[f"{prefix}.weight"] = self._check(prefix, parts)
        self._formats = {name: self._format(matrix) for name, matrix in self._matrices.items()}

    def _check(self, prefix: str, parts: Mapping[str, TensorInfo]) -> _Matrix:
        needed = {"weight_packed": ("weight_scale",), "qweight": ("qzeros", "scales")}
        for part in needed[self._layout.packed]:
            if part not in parts:
                raise ModelError(f"weights: {prefix}.{part} is missing", "download it again")
        for part in needed[self._layout.packed]:
            if len(parts[part].shape) != 2 or 0 in parts[part].shape:
                raise ModelError(
                    f"weights: {prefix}.{part} is {list(parts[part].shape)}, not a matrix",
                    "give the config.json and the safetensors files of one and the same model",
                )
        packed = parts[self._layout.packed]
        if packed.dtype != "i32" or len(packed.shape) != 2:
            raise ModelError(
                f"weights: {prefix}.{self._layout.packed} is {packed.dtype} "
                f"{list(packed.shape)}, not a matrix of i32",
                "give the config.json and the safetensors files of one and the same model",
            )
        return _Matrix(self._source, prefix, self._layout.shape(parts))

    def _format(self, matrix: _Matrix) -> WeightFormat:
        layout, (rows, columns) = self._layout, matrix.shape
        bits: int = layout.bits
        zeros, scales = layout.zeros(matrix), layout.scales(matrix)
        groups = scales.shape[1]
        if zeros.shape != scales.shape or scales.shape[0] != rows or columns % groups:
            raise ModelError(
                f"weights: {matrix.prefix} has scales {list(scales.shape)} and zero points "
                f"{list(zeros.shape)} for a matrix {[rows, columns]}",
                "give the config.json and the safetensors files of one and the same model",
            )
        order = layout.order(matrix)
        if order is not None and order.numel():
            expected = torch.arange(columns) // (columns // groups)
            if not torch.equal(order.long(), expected):
                raise ModelError(
                    f"weights: {matrix.prefix} has its columns in the order of their activations "
                    "(desc_act), so that its groups are scattered, which is not supported",
                    "quantise it with desc_act=false, or give the original model and --quantize",
                )
        centred = bool((zeros == 1 << bits - 1).all())
        if bits == 8 and not centred:
            raise ModelError(
                f"weights: {matrix.prefix} has 8 bits and zero points, which is not supported",
                _REMEDY,
            )
        group = None if groups == 1 else columns // groups
        return WeightFormat(bits, group, "" if centred else "zero_point")

    def tensors(self) -> dict[str, TensorInfo]:
        """See `WeightSource`; a quantised matrix reads as f32."""
        hidden = {f"{m.prefix}.{p}" for m in self._matrices.values() for p in self._layout.parts}
        plain = {n: info for n, info in self._source.tensors().items() if n not in hidden}
        return plain | {n: TensorInfo(m.shape, "f32") for n, m in self._matrices.items()}

    def read(self, name: str) -> torch.Tensor:
        """See `WeightSource`."""
        if name not in self._matrices:
            return self._source.read(name)
        matrix = self._matrices[name]
        rows, columns = matrix.shape
        groups = self._layout.scales(matrix).float()
        integers = self._layout.integers(matrix, 0, rows).float()
        zeros = self._layout.zeros(matrix)
        wide = (integers.view(rows, zeros.shape[1], -1) - zeros[..., None]) * groups[..., None]
        return wide.reshape(rows, columns)

    def formats(self) -> dict[str, WeightFormat]:
        """See `QuantizedSource`."""
        return dict(self._formats)

    def read_quantized(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """See `QuantizedSource`: a block of rows at a time."""
        matrix, weight_format = self._matrices[name], self._formats[name]
        rows, columns = matrix.shape
        middle = 1 << weight_format.bits - 1
        factors = self._layout.scales(matrix)
        scales = factors.to(torch.float16)
        if not bool(torch.isfinite(scales).all()):
            raise ModelError(
                f"weights: {name} has scales that are NaN, infinite or beyond f16",
                "get an intact copy",
            )
        zeros = None
        if weight_format.offset:
            zeros = (self._layout.zeros(matrix) - middle).to(torch.float16)
        scales = pack_scales(Scales(scales, zeros).padded(-rows % PANEL), weight_format)
        packed = torch.empty(weight_format.packed_shape(rows, columns), dtype=torch.int8)
        panels = max(1, _BLOCK // (PANEL * columns))
        for first in range(0, packed.shape[0], panels):
            begin, end = first * PANEL, min((first + panels) * PANEL, rows)
            block = self._layout.integers(matrix, begin, end)[: end - begin]
            codes = (
                (block.to(torch.int16) - middle).to(torch.int8)
                if weight_format.bits == 8
                else block
            )
            codes = torch.nn.functional.pad(codes, (0, 0, 0, -codes.shape[0] % PANEL))
            packed[first : first + codes.shape[0] // PANEL] = pack(codes, weight_format)
        return packed, scales

    def digest(self) -> str:
        """See `WeightSource`."""
        return self._source.digest()
