"""How a HF model is called: with a sequence's state, and every plug point in its place."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from edgec.errors import ModelError
from edgec.models import hooks
from edgec.models.plugs import rotary
from edgec.models.plugs.positions import PositionRanges
from edgec.models.plugs.state import SequenceState, using

__all__ = ["call", "place"]

# What modelling code names the argument that takes a `Cache`.
_CACHE_ARGUMENTS = ("past_key_values", "cache_params")


def call(
    model: nn.Module,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    state: SequenceState,
    last: torch.Tensor | int = 0,
) -> torch.Tensor:
    """The logits of a block of tokens; the state's buffers are updated.

    Args:
        model: A HF causal language model with the plug points installed.
        tokens: i32 `[1, tokens]`; of a `BatchState` of B sequences `[B, 1]`.
        positions: i64, likewise.
        state: Of the sequence, before the block.
        last: Whose logits are wanted: i64 `[1]` the token's index, or 0 for all tokens.

    Returns:
        f32 `[1, 1 or tokens, V]`; of B sequences `[B, 1, V]`.

    Raises:
        ModelError: the model does something with its state that edgec does not know.
    """
    known = inspect.signature(model.forward).parameters
    cache = next((name for name in _CACHE_ARGUMENTS if name in known), None)
    if cache is None and not any(hooks.replaced(module) for module in model.modules()):
        raise ModelError("its modelling code takes no cache that edgec knows")
    asked: dict[str, Any] = {} if cache is None else {cache: state}
    if "logits_to_keep" in known:
        asked["logits_to_keep"] = last
    # Left to itself a model may count from 0 in each call (bamba), or on from `start`, which is
    # that of one sequence. What it adds for padding, it would not add to positions that are given.
    if "position_ids" in known and not _counts_padding(model):
        asked["position_ids"] = positions
    elif len(state.parts) > 1:
        raise ModelError(
            "its modelling code cannot be told the positions of several sequences",
            "leave out --batch",
        )
    ranges = PositionRanges(state.start, tokens.shape[1], state.capacity)
    # What transformers skips when it is exported (looks at the data) is skipped in discovery too.
    compiling = mock.patch.object(torch.compiler, "_is_compiling_flag", True)
    unchecked = mock.patch.object(torch.distributions.Distribution, "_validate_args", False)
    rotated = rotary.installed(model, state)
    with using(state), hooks.installed(model), rotated, ranges, compiling, unchecked:
        logits: torch.Tensor = model(input_ids=tokens, use_cache=True, **asked).logits
    if "logits_to_keep" not in known and not isinstance(last, int):
        logits = logits.index_select(1, last)
    if state.buffers is not None:
        state.check_complete()
    return logits


def _counts_padding(model: nn.Module) -> bool:
    """Whether positions start after the id of padding, as they do in families after RoBERTa."""
    tables = (m for n, m in model.named_modules() if n.endswith("position_embeddings"))
    return any(getattr(table, "padding_idx", None) is not None for table in tables)


def place(error: BaseException) -> str:
    """Where in modelling code an error came from, for a message.

    Returns:
        The innermost line and layer, ` (modeling_zaya.py:232, layer 0)`; empty if there is none.
    """
    line = layer = ""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        name = Path(frame.f_code.co_filename).name
        if name.startswith("modeling_"):
            line = f"{name}:{traceback.tb_lineno}"
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and isinstance(getattr(owner, "layer_idx", None), int):
            layer = f", layer {owner.layer_idx}"
        traceback = traceback.tb_next
    return f" ({line}{layer})" if line else ""
