"""Plug point 2: experts, registered with transformers under the name `edgec`.

The routing function (softmax, sigmoid, groups, ...) stays the model's own code; it ends in the
experts that each token chose and their weights. From there on everything is in three operators,
and stays on the device: `edgec::topk` (which the model's own `torch.topk` becomes at export),
`edgec::histogram` and `edgec::grouped_matmul`.

A prompt's rows are sorted by expert, by counting: the histogram says where each expert's rows
start, a running count says which of them a row is. Starts are rounded up, so that every tile of
the product has rows of one expert. Rows of padding go nowhere. A single token needs none of this:
its few rows name their experts themselves, and only those experts' weights are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from edgec.errors import ModelError
from edgec.models.expert_keys import EXPERT_COUNT_KEYS
from edgec.models.ops.grouped_matmul import ROW_BLOCK, grouped_matmul
from edgec.models.ops.histogram import histogram
from edgec.models.ops.quantized_grouped_matmul import quantized_grouped_matmul
from edgec.models.plugs.discovery import Kept
from edgec.models.plugs.linear import WEIGHT_SCALES, QuantizedMatrix
from edgec.models.plugs.state import SequenceState, active_state
from edgec.weight_formats import WeightFormat

__all__ = [
    "IMPLEMENTATION",
    "Multiply",
    "check_config",
    "expert_modules",
    "install",
    "narrow_experts",
    "routed",
]

IMPLEMENTATION = "edgec"

_CHOSEN_KEYS = ("num_experts_per_tok", "moe_k", "moe_topk")
_MATRICES = ("gate_up_proj", "up_proj", "down_proj")
_FEATURES = "_features"
"""Suffix of the attribute with a quantised matrix's number of rows, which its panels hide."""


def install() -> None:
    """Makes `experts_implementation="edgec"` known to transformers. Idempotent."""
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _experts)


def check_config(config: Any) -> None:
    """Refuses a configuration that routes each token to more experts than a layer has.

    Raises:
        ModelError: k exceeds the number of experts; names the operator that would choose them.
    """
    counts = [getattr(config, key, None) for key in EXPERT_COUNT_KEYS]
    chosen = [getattr(config, key, None) for key in _CHOSEN_KEYS]
    count = min((c for c in counts if isinstance(c, int) and c > 1), default=None)
    k = max((c for c in chosen if isinstance(c, int)), default=None)
    if count is not None and k is not None and k > count:
        raise ModelError(
            f"model type '{config.model_type}': edgec::topk cannot choose {k} of {count} experts",
            "correct config.json",
        )


def expert_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model that reach this plug point, by name.

    transformers' `use_experts_implementation` marks them with what their weights look like.
    """
    return {n: m for n, m in model.named_modules() if hasattr(m, "has_gate") and _matrices(m)}


def narrow_experts(
    model: nn.Module, dtype: torch.dtype, weight_format: WeightFormat | None = None
) -> dict[str, QuantizedMatrix]:
    """Stores the experts' matrices of a model on the meta device narrower, in place.

    Args:
        model: With float parameters.
        dtype: What matrices are stored in, unless `weight_format` is given.
        weight_format: The format of quantised matrices; experts have no zero points.

    Returns:
        The quantised matrices by the name of the parameter that they replace.

    Raises:
        InputError: the group size does not divide a matrix.
    """
    quantized: dict[str, QuantizedMatrix] = {}
    for prefix, module in expert_modules(model).items():
        for name, matrix in _matrices(module).items():
            if weight_format is None:
                empty = torch.empty(matrix.shape, dtype=dtype, device=matrix.device)
                setattr(module, name, nn.Parameter(empty, requires_grad=False))
                continue
            full = f"{prefix}.{name}"
            own = dataclasses.replace(weight_format, offset="")
            stored = _quantized(full, matrix, own, bool(module.is_transposed))
            setattr(module, name, stored.packed)
            module.register_parameter(f"{name}{WEIGHT_SCALES}", stored.scales)
            setattr(module, f"{name}{_FEATURES}", stored.rows)
            quantized[full] = stored
    return quantized


def _quantized(
    name: str, matrix: nn.Parameter, weight_format: WeightFormat, transposed: bool
) -> QuantizedMatrix:
    """The parameters, on the meta device, of each expert's matrix quantised by itself."""
    count, rows, columns = matrix.shape
    if transposed:
        rows, columns = columns, rows
    packed, scales = (
        nn.Parameter(torch.empty(count, *shape, dtype=t, device="meta"), requires_grad=False)
        for shape, t in (
            (weight_format.packed_shape(rows, columns), torch.int8),
            (weight_format.scales_shape(name, rows, columns), torch.float16),
        )
    )
    return QuantizedMatrix(
        rows, columns, weight_format, packed, scales, experts=count, transposed=transposed
    )


def _matrices(module: nn.Module) -> dict[str, nn.Parameter]:
    own = dict(module.named_parameters(recurse=False))
    return {name: own[name] for name in _MATRICES if name in own}


@dataclass(frozen=True)
class _Routing:
    """The places to which the rows of a block of tokens go.

    Attributes:
        offsets: i32 `[experts + 1]`, the start of each expert's rows, for `grouped_matmul`.
        counts: i32 `[experts]`, how many rows each has.
        sources: i64 `[rows]`, the token of each sorted row; where there is none, the first.
        slots: i64 `[tokens, k]`, the sorted row of each choice; of padding, the first.
        live: bool `[tokens, 1]`, false for padding.
    """

    offsets: torch.Tensor
    counts: torch.Tensor
    sources: torch.Tensor
    slots: torch.Tensor
    live: torch.Tensor


def _experts(
    module: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """The function that HF experts modules call.

    Args:
        module: The experts module; its weights are read, its gate and activation called.
        hidden_states: f32 `[tokens, width]`.
        top_k_index: i64 `[tokens, k]`.
        top_k_weights: f32 `[tokens, k]`.

    Returns:
        f32 `[tokens, width]`, zero for padding.
    """
    _check(module, hidden_states, top_k_index, top_k_weights)
    state = active_state()
    name = _discover(state, module, top_k_index.shape[1])
    length = state.length
    count, width = top_k_index.shape[1], hidden_states.shape[1]
    weights = top_k_weights.to(hidden_states.dtype)
    if length is None:
        # One token, or one of each sequence of a batch.
        tokens = hidden_states.shape[0]
        if tokens == 1:
            rows = hidden_states.expand(count, width)
        else:
            rows = hidden_states[:, None].expand(tokens, count, width).reshape(-1, width)
        chosen = top_k_index.reshape(tokens * count).to(torch.int32)
        if state.discovery.count_experts:
            places = torch.arange(int(module.num_experts), device=chosen.device)
            hits = (chosen[:, None] == places).sum(dim=0, dtype=torch.int32)
            _count(state, name, hits)
        result = _feed_forward(module, rows, None, chosen)
        return (result.reshape(tokens, count, width) * weights[:, :, None]).sum(dim=1)
    routing = _route(top_k_index, length, int(module.num_experts))
    _count(state, name, routing.counts)
    rows = hidden_states[routing.sources]
    result = _feed_forward(module, rows, routing, None)
    weights = torch.where(routing.live, weights, torch.zeros((), dtype=weights.dtype))
    return (result[routing.slots] * weights[:, :, None]).sum(dim=1)


Multiply = Callable[[torch.Tensor, torch.Tensor, bool], torch.Tensor]
"""Rows by the matrices of their experts: `grouped_matmul` of `x`, `weight` and `transposed`."""


def routed(
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
    experts: int,
    feed_forward: Callable[[torch.Tensor, Multiply], torch.Tensor],
    rows_per_token: int = 1,
) -> torch.Tensor:
    """Experts whose modules do not reach the plug point.

    Args:
        hidden_states: f32 `[rows, width]`.
        top_k_index: i64 `[rows, k]`, and f32 `top_k_weights` likewise.
        experts: How many there are.
        feed_forward: Rows of any experts to their results, with the products that it is given.
        rows_per_token: Neighbours that belong to one token.

    Returns:
        f32 `[rows, width of the results]`, zero for padding.
    """
    length = active_state().length
    offsets = chosen = None
    if length is None:
        chosen = top_k_index.reshape(-1).to(torch.int32)
        many, width = top_k_index.shape[1], hidden_states.shape[1]
        rows = hidden_states[:, None].expand(-1, many, -1).reshape(-1, width)
    else:
        routing = _route(top_k_index, length * rows_per_token, experts)
        offsets, rows = routing.offsets, hidden_states[routing.sources]

    def multiply(x: torch.Tensor, weight: torch.Tensor, transposed: bool) -> torch.Tensor:
        product: torch.Tensor = grouped_matmul(x, weight, None, offsets, chosen, transposed)
        return product

    result = feed_forward(rows, multiply)
    if length is None:
        result = result.reshape(*top_k_index.shape, -1)
    else:
        result = result[routing.slots]
        top_k_weights = torch.where(routing.live, top_k_weights, 0.0)
    return (result * top_k_weights[:, :, None]).sum(dim=1)


def _discover(state: SequenceState, module: Any, chosen: int) -> str:
    """Notes the module the first time; the name of its buffer of counts, if there is one."""
    discovery = state.discovery
    known = discovery.experts_per_token
    if state.buffers is None:
        known[module] = chosen
    name = f"experts.{list(known).index(module)}.counts"
    if state.buffers is None and discovery.count_experts:
        discovery.keep(name, Kept("expert_counts", (int(module.num_experts),)))
    return name


def _count(state: SequenceState, name: str, counts: torch.Tensor) -> None:
    """Adds to how many tokens each expert got, where the program is to say so."""
    if state.discovery.count_experts and state.buffers is not None:
        # f32 is exact: a sequence has fewer than 2^24 tokens.
        state.write(name, state.buffers[name] + counts.to(torch.float32))


def _feed_forward(
    module: Any,
    rows: torch.Tensor,
    routing: _Routing | None,
    experts: torch.Tensor | None,
) -> torch.Tensor:
    """Up, the module's own gate and activation, down: f32 `[rows, width]` to the same."""

    offsets, counts = (routing.offsets, routing.counts) if routing else (None, None)

    def project(name: str, x: torch.Tensor) -> torch.Tensor:
        bias = getattr(module, f"{name}_bias") if module.has_bias else None
        matrices = getattr(module, name)
        scales = getattr(module, f"{name}{WEIGHT_SCALES}", None)
        product: torch.Tensor
        if scales is None:
            product = grouped_matmul(
                x, matrices, bias, offsets, experts, bool(module.is_transposed)
            )
        else:
            features = getattr(module, f"{name}{_FEATURES}")
            product = quantized_grouped_matmul(
                x, matrices, scales, bias, offsets, counts, experts, features
            )
        return product

    if module.has_gate:
        hidden = module._apply_gate(project("gate_up_proj", rows))
    else:
        hidden = module.act_fn(project("up_proj", rows))
    result = project("down_proj", hidden)
    if module.has_post_expert_norm:
        normed: torch.Tensor = module.post_expert_norm(result)
        return normed
    return result


def _route(ids: torch.Tensor, length: torch.Tensor, experts: int) -> _Routing:
    """Sorts the choices of a block of tokens by expert, counting instead of comparing.

    Args:
        ids: i64 `[tokens, k]`; no token chooses an expert twice.
        length: i64 scalar, how many of the tokens are true.
        experts: How many there are.
    """
    tokens, k = ids.shape
    # What rounding every group up can need at most.
    rows = (tokens * k + ROW_BLOCK - 1) // ROW_BLOCK * ROW_BLOCK + experts * ROW_BLOCK
    counts = histogram(ids, length, experts)
    padded = (counts + (ROW_BLOCK - 1)) // ROW_BLOCK * ROW_BLOCK
    ends = padded.cumsum(0, dtype=torch.int32)
    offsets = torch.cat([torch.zeros_like(ends[:1]), ends])
    chosen = (ids[:, :, None] == torch.arange(experts, device=ids.device)).sum(1)
    before = chosen.cumsum(0) - chosen
    positions = torch.arange(tokens, device=ids.device)[:, None]
    live = positions < length
    slots = before.gather(1, ids) + offsets[ids]
    # One row more than there are: where padding is sent, not to be read.
    targets = torch.where(live, slots, torch.full_like(slots, rows)).reshape(-1)
    sources = torch.zeros(rows + 1, dtype=torch.int64, device=ids.device)
    sources = sources.index_put((targets,), positions.expand(tokens, k).reshape(-1))[:rows]
    return _Routing(
        offsets, counts, sources, torch.where(live, slots, torch.zeros_like(slots)), live
    )


def _check(
    module: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> None:
    """Refuses what would be computed wrongly, naming the family and the operator."""
    where = f"{type(module).__name__}, edgec::grouped_matmul"
    tokens, experts = hidden_states.shape[0], int(module.num_experts)
    if top_k_index.dim() != 2 or top_k_weights.shape != top_k_index.shape:
        raise ModelError(
            f"{where}: its routing gives indices {list(top_k_index.shape)} and weights "
            f"{list(top_k_weights.shape)} for {tokens} tokens",
            "this form of routing is not supported yet",
        )
    if top_k_index.shape[1] > experts:
        raise ModelError(f"{where}: {top_k_index.shape[1]} experts per token of {experts}")
    for name, matrix in _matrices(module).items():
        packed = hasattr(module, f"{name}{WEIGHT_SCALES}")
        if matrix.dim() != (5 if packed else 3) or matrix.shape[0] != experts:
            raise ModelError(f"{where}: {name} is {list(matrix.shape)} for {experts} experts")
