"""What a model folder cannot be is refused before hours of work, by its small files alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgec.errors import ModelError
from edgec.models.weights.source import TensorInfo

__all__ = ["check_place", "check_sizes"]

_LAYERS = re.compile(r"(num|n)_(\w+_)?(layers?|blocks?)|num_layers|n_layer|depth")
_SIZES = re.compile(
    r"(\w+_)?(vocab_size|hidden_size|intermediate_size|hidden_dim|ffn_dim|d_model|d_ff|d_inner"
    r"|n_embd|n_inner|n_head|n_heads|num_heads|num_attention_heads|num_key_value_heads|num_experts"
    r"|num_local_experts|n_routed_experts|head_dim|embed_dim|embedding_size|state_size|conv_kernel)"
)

# What is below is built in a second or two, and the comparison of every tensor says more.
_FEW_LAYERS = 256
_SMALL = 1 << 24


def check_sizes(model: str, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    """Refuses a configuration that asks for more than the checkpoint can hold.

    Each layer has a tensor of its own at least, and no dimension is larger than all weights
    together. What fits better is for the comparison of every tensor to say; that one builds the
    model first, and building one of 10^5 layers takes minutes.

    Raises:
        ModelError: names the key, its value and what the checkpoint has.
    """
    layers = max(len(tensors), _FEW_LAYERS)
    bits = max(8 * sum(info.nbytes for info in tensors.values()), _SMALL)
    for key, value in _integers(config):
        if _LAYERS.fullmatch(key) and value > layers:
            has = f"{len(tensors)} tensors"
        elif _SIZES.fullmatch(key) and value > bits:
            has = f"{bits // 8} bytes of weights"
        else:
            continue
        raise ModelError(
            f"model {model}: config.json: {key} is {value}, and the checkpoint has {has}",
            "give the config.json and the safetensors files of one and the same model",
        )


def _integers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _integers(value)
        elif isinstance(value, int):
            yield key, value


def check_place(model: str, folder: Path, name: str) -> None:
    """Refuses a small file that is a link to outside of its folder: an artifact would carry it.

    The hub's cache keeps files as links into the folder `blobs` beside its snapshots.

    Raises:
        ModelError: names the link and where it leads.
    """
    path = folder / name
    if not path.is_symlink():
        return
    try:
        inside, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:
        raise ModelError(f"model {model}: {name}: {error}", "restore it") from None
    blobs = inside.parent.parent / "blobs"
    if target.is_relative_to(inside) or (
        inside.parent.name == "snapshots" and target.is_relative_to(blobs)
    ):
        return
    raise ModelError(
        f"model {model}: {name} is a link to {target}, outside of the folder",
        "put a copy of the file there, if you trust it",
    )
