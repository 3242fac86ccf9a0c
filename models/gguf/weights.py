"""GGUF files: their integers become edgec's formats as they are, tensor by tensor.

The layouts of blocks are those of ggml's `ggml-common.h` and `ggml-quants.c`. The `gguf` package
has the reference dequantisation.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from edgec.errors import ModelError
from edgec.models.gguf.header import DAMAGED, Header, StoredTensor, shown
from edgec.models.gguf.tokenizer import Vocabulary
from edgec.models.weights.packing import Scales, pack, pack_scales
from edgec.models.weights.quantize import coded, halves, quantize
from edgec.models.weights.source import TensorInfo, first_few, map_bytes, sample_digest
from edgec.weight_formats import PANEL, WeightFormat

__all__ = ["GgufFile", "GgufWeights"]

_Type = gguf.GGMLQuantizationType
_BLOCK = 1 << 18  # weights unpacked at a time
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_MAX_PARTS = 10_000
_FLOATS = {_Type.F32: "f32", _Type.F16: "f16", _Type.BF16: "bf16"}
_REMEDY = (
    "take a Q8_0, Q4_0, Q4_K_M or F16 file of the same model, or its original and --quantize int4"
)


@dataclass(frozen=True)
class _Unpacked:
    """Integers i8 `[rows, K]`, and scales (with zero points: both) f16 `[..., rows, K / 32]`."""

    integers: torch.Tensor
    scales: torch.Tensor


def _half(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """The f16 at byte `at` of each block, u8 `[rows, blocks, bytes]`."""
    return blocks[..., at : at + 2].contiguous().view(torch.float16)[..., 0]


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """u8 `[..., n]` to `[..., 2 n]`: the low nibbles, then the high ones."""
    return torch.cat([packed & 15, packed >> 4], dim=-1)


def _flat(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(values.shape[0], -1)


def _q8_0(blocks: torch.Tensor) -> _Unpacked:
    return _Unpacked(_flat(blocks[..., 2:].view(torch.int8)), _half(blocks, 0))


def _q4_0(blocks: torch.Tensor) -> _Unpacked:
    return _Unpacked(_flat(_nibbles(blocks[..., 2:]).to(torch.int8) - 8), _half(blocks, 0))


def _q4_1(blocks: torch.Tensor) -> _Unpacked:
    scale, low = _half(blocks, 0).float(), _half(blocks, 2).float()
    integers = _flat(_nibbles(blocks[..., 4:]).to(torch.int8) - 8)
    return _with_zero_points(integers, scale, low + 8 * scale)


def _q5_0(blocks: torch.Tensor) -> _Unpacked:
    bit = torch.arange(8, dtype=torch.uint8)
    fifth = (blocks[..., 2:6, None] >> bit & 1).flatten(-2)
    integers = (_nibbles(blocks[..., 6:]) | fifth << 4).to(torch.int8) - 16
    return _Unpacked(_flat(integers), _half(blocks, 0))


def _q4_k(blocks: torch.Tensor) -> _Unpacked:
    rows, count = blocks.shape[:2]
    packed = blocks[..., 4:16]
    a, b, c = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scale = torch.cat([a & 63, c & 15 | a >> 6 << 4], dim=-1).float()
    low = torch.cat([b & 63, c >> 4 | b >> 6 << 4], dim=-1).float()
    scale = (_half(blocks, 0).float()[..., None] * scale).reshape(rows, -1)
    low = (_half(blocks, 2).float()[..., None] * low).reshape(rows, -1)
    # 64 weights lie in 32 bytes: the first 32 in their low nibbles, the others in the high ones.
    integers = _nibbles(blocks[..., 16:].reshape(rows, count, 4, 32)).to(torch.int8) - 8
    return _with_zero_points(_flat(integers), scale, 8 * scale - low)


def _with_zero_points(
    integers: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor
) -> _Unpacked:
    """Integers with `scale q + offset`; scale and offset are f32 `[rows, K / 32]`."""
    s, z, flat = halves(scale, offset)
    integers = integers.view(*s.shape, -1).masked_fill(flat[..., None], 0)
    return _Unpacked(_flat(integers), torch.stack([s, z]))


_EXACT: dict[Any, tuple[WeightFormat, Callable[[torch.Tensor], _Unpacked]]] = {
    _Type.Q8_0: (WeightFormat(8, 32), _q8_0),
    _Type.Q5_0: (WeightFormat(8, 32), _q5_0),
    _Type.Q4_0: (WeightFormat(4, 32), _q4_0),
    _Type.Q4_1: (WeightFormat(4, 32, "zero_point"), _q4_1),
    _Type.Q4_K: (WeightFormat(4, 32, "zero_point"), _q4_k),
}
"""Types whose integers a format holds as they are."""

_ROUNDED = {_Type.Q5_1, _Type.Q5_K, _Type.Q6_K}
"""Types of more than four bits that no format holds: they are rounded to int8."""


class GgufFile:
    """A GGUF file, or all parts of one: their headers.

    Args:
        path: The file; of several parts, the first. The others lie beside it.

    Raises:
        ModelError: not a GGUF file, damaged, a part missing, or with tensors of a type that edgec
            does not take; these are named.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = Header(path)
        self.metadata = self.header.metadata
        self.tensors = dict(self.header.tensors)
        self.parts = [path, *self._other_parts()]
        architecture = self.metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise ModelError(f"{path}: no general.architecture", DAMAGED)
        self.architecture = architecture
        kind = self.metadata.get("general.type", "model")
        if kind != "model":
            raise ModelError(f"{path}: holds no model but {shown(kind)}", "give the model's file")
        refused: dict[str, list[str]] = {}
        for name, tensor in self.tensors.items():
            if tensor.type not in (_FLOATS.keys() | _EXACT.keys() | _ROUNDED):
                refused.setdefault(tensor.type.name, []).append(name)
        if refused:
            what = "; ".join(f"{kind} ({first_few(names, 2)})" for kind, names in refused.items())
            raise ModelError(f"{path}: tensors of types that edgec does not take: {what}", _REMEDY)

    def _other_parts(self) -> list[Path]:
        """The parts after the first, with their tensors taken over."""
        count, total = self._part(self.header)
        if count == 1:
            return []
        named = _PART.fullmatch(self.path.name)
        if named is None or int(named[2]) != 1 or int(named[3]) != count:
            raise ModelError(
                f"{self.path}: the first of {count} parts, by another name",
                f"name it NAME-00001-of-{count:05}.gguf, as the others",
            )
        others = [
            self.path.with_name(f"{named[1]}-{number:05}-of-{count:05}.gguf")
            for number in range(2, count + 1)
        ]
        if missing := [other.name for other in others if not other.exists()]:
            raise ModelError(
                f"{self.path}: {len(missing)} of {count} parts missing: {first_few(missing, 3)}",
                "put all parts into one folder",
            )
        for number, other in enumerate(others, 1):
            header = Header(other)
            if self._part(header, number)[0] != count:
                raise ModelError(f"{other}: belongs to another number of parts", DAMAGED)
            if twice := header.tensors.keys() & self.tensors.keys():
                raise ModelError(f"{other}: {min(twice)} is in a part before it, too", DAMAGED)
            self.tensors |= header.tensors
        if total is not None and total != len(self.tensors):
            raise ModelError(
                f"{self.path}: {total} tensors in all parts, {len(self.tensors)} found", DAMAGED
            )
        return others

    def _part(self, header: Header, number: int = 0) -> tuple[int, int | None]:
        """The number of parts and of tensors in all, from the header of part `number`."""
        keys = ("split.count", "split.no", "split.tensors.count")
        count, place, total = (header.metadata.get(key) for key in keys)
        for key, value in zip(keys, (count, place, total), strict=True):
            if value is not None and (type(value) is not int or not 0 <= value < 1 << 31):
                raise ModelError(f"{header.path}: {key} is {shown(value)}", DAMAGED)
        if count is not None and count > _MAX_PARTS:
            raise ModelError(f"{header.path}: split.count is {count}", DAMAGED)
        if (count or 1) > 1 and (place or 0) != number:
            found = _PART.fullmatch(header.path.name)
            first = f"{found[1]}-00001-of-{found[3]}.gguf" if found else "the first"
            raise ModelError(
                f"{header.path}: holds part {(place or 0) + 1} of {count}, not {number + 1}",
                f"give {first}" if number == 0 else DAMAGED,
            )
        return count or 1, total

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, checked.

        Raises:
            ModelError: there is none, or one that cannot be used.
        """
        return Vocabulary(self.header)

    @property
    def types(self) -> dict[str, int]:
        """How many tensors there are of each type, by name."""
        names = [tensor.type.name for tensor in self.tensors.values()]
        return {name: names.count(name) for name in sorted(set(names))}


class GgufWeights:
    """A GGUF file's tensors under the names that transformers has: a `QuantizedSource`.

    Args:
        file: The header.
        names: Name in the file to name of the parameter.
        process: Undoes what llama.cpp's converter did to a tensor's values: array and name in the
            file to array.

    Raises:
        ModelError: the file has tensors that the model has no use for.
    """

    def __init__(
        self,
        file: GgufFile,
        names: dict[str, str],
        process: Callable[[np.ndarray[Any, Any], str], np.ndarray[Any, Any]],
    ) -> None:
        self._file = file
        self._names = {names[name]: name for name in file.tensors if name in names}
        self._process = process
        self._orders: dict[str, torch.Tensor | None] = {}

    def tensors(self) -> dict[str, TensorInfo]:
        """See `WeightSource`. What is quantised reads as f32."""
        found = {}
        for name, stored in self._names.items():
            tensor = self._file.tensors[stored]
            empty = np.broadcast_to(np.zeros((), np.float32), tensor.shape)
            shape = tuple(self._process(empty, stored).shape)
            found[name] = TensorInfo(shape, _FLOATS.get(tensor.type, "f32"))
        return found

    def read(self, name: str) -> torch.Tensor:
        """See `WeightSource`."""
        stored = self._names[name]
        tensor = self._file.tensors[stored]
        if tensor.type == _Type.BF16:  # numpy has no such type
            raw = self._bytes(stored).view(torch.bfloat16).view(tensor.shape).float()
            values = raw.numpy()
        elif tensor.type in _FLOATS:
            dtype = {_Type.F32: torch.float32, _Type.F16: torch.float16}[tensor.type]
            values = self._bytes(stored).view(dtype).view(tensor.shape).numpy()
        else:
            values = gguf.dequantize(self._rows(stored).numpy(), tensor.type)
            values = values.reshape(tensor.shape)
        made = torch.from_numpy(np.ascontiguousarray(self._process(values, stored)))
        return made.to(torch.bfloat16) if tensor.type == _Type.BF16 else made

    def formats(self) -> dict[str, WeightFormat]:
        """See `QuantizedSource`."""
        found = {}
        for name, stored in self._names.items():
            kind = self._file.tensors[stored].type
            if kind in _EXACT and self._order(stored) is not None:
                found[name] = _EXACT[kind][0]
            elif kind in _ROUNDED and self._order(stored) is not None:
                found[name] = WeightFormat(8, 32)
        return found

    def read_quantized(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """See `QuantizedSource`: a block of rows at a time."""
        stored = self._names[name]
        tensor, order = self._file.tensors[stored], self._order(stored)
        assert order is not None
        rows, columns = tensor.shape
        form = self.formats()[name]
        packed = torch.empty(form.packed_shape(rows, columns), dtype=torch.int8)
        scales = torch.empty(form.scales_shape(name, rows, columns), dtype=torch.float16)
        raw = self._rows(stored)
        panels = max(1, _BLOCK // (PANEL * columns))
        for first in range(0, packed.shape[0], panels):
            block = raw[order[first * PANEL : (first + panels) * PANEL]]
            last = first + -(-block.shape[0] // PANEL)
            packed[first:last], scales[..., first:last, :, :] = self._pack(name, tensor, block)
        if not bool(torch.isfinite(scales).all()):
            raise ModelError(f"weights: {name} has NaN or infinite scales", "get an intact copy")
        return packed, scales

    def _pack(
        self, name: str, tensor: StoredTensor, raw: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Some rows of raw blocks, u8 `[rows, bytes]`, as panels."""
        if tensor.type in _ROUNDED:
            wide = torch.from_numpy(gguf.dequantize(raw.numpy(), tensor.type))
            return quantize(name, wide, WeightFormat(8, 32))
        form, unpack = _EXACT[tensor.type]
        size = gguf.GGML_QUANT_SIZES[tensor.type][1]
        unpacked = unpack(raw.view(raw.shape[0], -1, size))
        missing = -raw.shape[0] % PANEL
        integers = torch.nn.functional.pad(unpacked.integers, (0, 0, 0, missing))
        scales = Scales(*(unpacked.scales if form.offset else (unpacked.scales,))).padded(missing)
        return pack(coded(integers, form), form), pack_scales(scales, form)

    def digest(self) -> str:
        """See `WeightSource`."""
        tensors = self._file.tensors.values()
        digests = [
            sample_digest(part, ((t.offset, t.nbytes) for t in tensors if t.path == part))
            for part in self._file.parts
        ]
        return (
            digests[0] if len(digests) == 1 else hashlib.sha256(repr(digests).encode()).hexdigest()
        )

    def _order(self, stored: str) -> torch.Tensor | None:
        """The file's row for each row of the parameter; None where it is not rows moved about.

        Processing is asked, with the rows' numbers for values.
        """
        if stored not in self._orders:
            shape = self._file.tensors[stored].shape
            order = None
            if len(shape) == 2:
                numbers = np.arange(shape[0], dtype=np.float64)[:, None]
                made = self._process(numbers, stored)
                if made.shape == numbers.shape and np.array_equal(np.sort(made, 0), numbers):
                    order = torch.from_numpy(made[:, 0].astype(np.int64))
            self._orders[stored] = order
        return self._orders[stored]

    def _bytes(self, stored: str) -> torch.Tensor:
        tensor = self._file.tensors[stored]
        return map_bytes(tensor.path, tensor.offset, tensor.nbytes, stored).clone()

    def _rows(self, stored: str) -> torch.Tensor:
        """The raw blocks, u8 `[rows, bytes]`, mapped."""
        tensor = self._file.tensors[stored]
        raw = map_bytes(tensor.path, tensor.offset, tensor.nbytes, stored)
        return raw.view(-1, tensor.nbytes * tensor.shape[-1] // int(np.prod(tensor.shape)))
