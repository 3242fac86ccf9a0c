"""Plug point 1: attention, registered with transformers under the name `edgec`.

Masks are never tensors. What a model asks for is a function of positions; it is evaluated once,
during discovery, and must turn out to be causal, with or without a sliding window. The operator
builds it from positions. Anything else is refused: a wrong mask would be a wrong answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from edgec.errors import ModelError
from edgec.models.ops.attention import attention
from edgec.models.plugs.discovery import CausalMask
from edgec.models.plugs.state import active_state

__all__ = ["IMPLEMENTATION", "attend", "install"]

IMPLEMENTATION = "edgec"

# Arguments that models pass along and that do not change what is computed here.
_HARMLESS = frozenset(
    {
        "dropout", "is_causal", "use_cache", "cache_position", "position_ids", "output_attentions",
        "position_embeddings", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k",
        "output_hidden_states", "return_dict", "deterministic", "num_items_in_batch",
        "layer_idx", "target_dtype", "implementation", "logits_to_keep", "output_router_logits",
    }
)  # fmt: skip


def install() -> None:
    """Makes `attn_implementation="edgec"` known to transformers. Idempotent."""
    AttentionInterface.register(IMPLEMENTATION, attend)
    AttentionMaskInterface.register(IMPLEMENTATION, _mask)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: CausalMask | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The function that HF attention layers call; shapes as in `edgec::attention`."""
    known = getattr(module, "layer_idx", None)
    layer = -1 if known is None else int(known)
    where = f"{type(module).__name__}, layer {layer}"
    unknown = sorted(k for k, v in others.items() if v is not None and k not in _HARMLESS)
    if unknown or others.get("is_causal") is False:
        raise ModelError(f"{where}: attention with {', '.join(unknown) or 'no causal order'}")
    if not isinstance(attention_mask, CausalMask):
        raise ModelError(f"{where}: attention with a mask of its own is not supported")
    if not attention_mask.supported:
        raise ModelError(
            f"{where}: its mask is neither causal nor a sliding window",
            "this form of attention is not supported yet",
        )
    # A window that no position of the model can leave is no window.
    config = getattr(module, "config", None)
    longest = int(getattr(config, "max_position_embeddings", None) or 1 << 62)
    if sliding_window and sliding_window < longest and sliding_window != attention_mask.window:
        raise ModelError(
            f"{where}: a window of {sliding_window}, but a mask of {attention_mask.window}"
        )
    # transformers names it so in every family with multi-head latent attention.
    expanded = hasattr(module, "expand_kv")
    caches = active_state().attend(layer, key, value, attention_mask.window, expanded)
    if caches is None:
        return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3]), None
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    form = (s_aux, scale, attention_mask.window, float(softcap or 0.0))
    results = [
        attention(
            query[at : at + 1] if len(caches) > 1 else query,
            keys.rows, values.rows, start, *form, keys.scales, values.scales,
        )
        for at, (keys, values, start) in enumerate(caches)
    ]  # fmt: skip
    return results[0] if len(results) == 1 else torch.cat(results), None


def _mask(*, mask_function: Callable[..., Any], config: Any = None, **_: Any) -> CausalMask:
    """The function that HF calls to make a mask."""
    state = active_state()
    if state.buffers is not None:
        return state.next_mask()
    longest = min(int(getattr(config, "max_position_embeddings", None) or 4096), 1 << 17)
    mask = _describe(mask_function, longest)
    state.discovery.masks.append(mask)
    return mask


def _describe(mask_function: Callable[..., Any], longest: int) -> CausalMask:
    """Finds the window of a mask by asking it, and whether it is nothing but a window."""
    rows = torch.arange(longest, dtype=torch.int64)

    def visible(position: int) -> torch.Tensor:
        query = torch.full((1,), position, dtype=torch.int64)
        batch = head = torch.zeros((), dtype=torch.int64)
        return torch.as_tensor(mask_function(batch, head, query, rows)).expand(longest)

    last = longest - 1
    seen = int(visible(last).sum())
    window = 0 if seen == longest else seen
    for position in {0, 1, 2, window - 1, window, window + 1, 3 * window // 2, longest // 2, last}:
        if not 0 <= position < longest:
            continue
        expected = rows <= position
        if window:
            expected &= rows > position - window
        if not torch.equal(visible(position), expected):
            return CausalMask(0, supported=False)
    return CausalMask(window)
