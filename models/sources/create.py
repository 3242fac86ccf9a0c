"""Writing a preset as a Hugging Face folder, and listing the models that have names here."""

from __future__ import annotations

import json
import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.errors import InputError
from edgec.models.sources.bundled import BUNDLED, bundled_models
from edgec.models.sources.packages import PACKAGED
from edgec.models.sources.presets import PRESETS
from edgec.models.sources.resolve import resolve
from edgec.models.weights.source import SINGLE_FILE, Progress, SafetensorsWeights, WeightSource

__all__ = ["ModelRow", "create", "list_models"]

_SAFETENSORS_NAMES = {"f32": "F32", "bf16": "BF16", "f16": "F16"}
_ELEMENT_BYTES = {"f32": 4, "bf16": 2, "f16": 2}


def create(
    preset: str,
    folder: Path,
    *,
    layers: int | None = None,
    seed: int = 0,
    dtype: str = "bf16",
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes a preset with random weights as a folder that transformers can load.

    The weights are those that `preset:NAME` has with the same seed, converted to `dtype`. They
    are written tensor by tensor, and the folder appears only when it is whole.

    Args:
        preset: A preset's name, with or without `preset:`.
        folder: Where to write; must not exist unless `force`.
        layers: Only the first layers; all if None.
        seed: Makes the weights.
        dtype: f32, bf16 or f16.
        force: Replace a model folder that is there.
        progress: Told about the bytes written.

    Returns:
        The folder.

    Raises:
        InputError: unknown preset or dtype, the folder exists, or it cannot be written.
    """
    if dtype not in _SAFETENSORS_NAMES:
        raise InputError(f"dtype {dtype!r}: unknown", "give f32, bf16 or f16")
    _check_free(folder, force)
    source = resolve(f"preset:{preset.removeprefix('preset:')}", layers=layers, seed=seed)
    config = source.config
    config.dtype = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[dtype]
    target = folder.resolve()
    part = target.parent / f".{target.name}.{os.getpid()}.part"
    replaced = part.with_suffix(".old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)  # of a killed process that had our number
        part.mkdir()
        for name, content in source.files.items():
            assert isinstance(content, bytes)
            (part / name).write_bytes(content)
        (part / "config.json").write_text(config.to_json_string(), encoding="utf-8")
        _write_safetensors(part / SINGLE_FILE, source.weights, dtype, progress)
        _check_free(folder, force)  # again: another process may have been quicker
        if target.exists():
            target.rename(replaced)
        part.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"model folder {folder}: cannot write: {error.strerror or error}",
            "choose another place, or free space",
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _check_free(folder: Path, force: bool) -> None:
    if not folder.exists():
        return
    if not force:
        raise InputError(f"model folder {folder}: exists", "give another, or --force to replace it")
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / "config.json").is_file()):
        raise InputError(
            f"model folder {folder}: exists and is not a model, so it is not replaced",
            "give another",
        )


def _write_safetensors(
    path: Path, source: WeightSource, dtype: str, progress: Progress | None
) -> None:
    """Writes every tensor in one file: all sizes are known, so the header can come first."""
    import torch

    from edgec.models.weights.source import torch_dtype

    tensors = source.tensors()
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, info in tensors.items():
        end = position + info.count * _ELEMENT_BYTES[dtype]
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[dtype],
            "shape": list(info.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    total, written = position, 0
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in tensors:
            values = source.read(name).to(torch_dtype(dtype)).contiguous()
            stream.write(values.view(-1).view(torch.uint8).numpy().data)
            written += values.nbytes
            if progress is not None:
                progress("write", written, total)


@dataclass(frozen=True)
class ModelRow:
    """A line of `edgec models`.

    `parameters` counts tied weights once. `bytes` is the size of a packaged file, and what the
    weights take in bf16 otherwise.
    """

    name: str
    kind: str
    architecture: str
    parameters: int
    bytes: int


def list_models() -> list[ModelRow]:
    """The bundled models, the packaged ones and the presets, with sizes. Does not load torch."""
    rows: list[ModelRow] = []
    for name in bundled_models():
        config = json.loads((BUNDLED / name / "config.json").read_text(encoding="utf-8"))
        tensors = SafetensorsWeights(BUNDLED / name).tensors().values()
        rows.append(_row(f"bundled:{name}", "bundled", config, sum(t.count for t in tensors)))
    for model in PACKAGED.values():
        name, architecture = f"package:{model.name}", model.architecture
        rows.append(ModelRow(name, "package", architecture, model.parameters, model.size))
    for preset in PRESETS.values():
        row = _row(f"preset:{preset.name}", "preset", preset.config, preset.parameters)
        rows.append(row)
    return rows


def _row(name: str, kind: str, config: Any, parameters: int) -> ModelRow:
    architecture = str(config["architectures"][0])
    return ModelRow(name, kind, architecture, parameters, 2 * parameters)
