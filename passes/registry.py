"""The passes by name: each name to its class, loaded when used."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

from iree.compiler import ir

__all__ = ["LOWERINGS", "PASSES", "ModulePass", "load_pass"]


class ModulePass(Protocol):
    """A rewrite of a whole module. Options are the fields of a frozen dataclass."""

    def run(self, module: ir.Module) -> None:
        """Rewrites `module` in place; raises ValueError for IR that it cannot handle."""


PASSES = {
    "symbolic-bounds": "edgec.passes.mends.symbolic_bounds:SymbolicBounds",
    "static-prefill": "edgec.passes.static_prefill:StaticPrefill",
    "scalar-arguments": "edgec.passes.scalar_arguments:ScalarArguments",
    "row-slices": "edgec.passes.row_slices:RowSlices",
    "lower-layer-norm": "edgec.passes.lowerings.layer_norm:LowerLayerNorm",
    "lower-linear": "edgec.passes.lowerings.linear:LowerLinear",
    "lower-quantized-linear": "edgec.passes.lowerings.quantized_linear:LowerQuantizedLinear",
    "lower-quantized-embedding": (
        "edgec.passes.lowerings.quantized_embedding:LowerQuantizedEmbedding"
    ),
    "fuse-attention": "edgec.passes.lowerings.fuse_attention:FuseAttention",
    "lower-cache-update": "edgec.passes.lowerings.cache_update:LowerCacheUpdate",
    "lower-quantized-cache-update": (
        "edgec.passes.lowerings.quantized_cache_update:LowerQuantizedCacheUpdate"
    ),
    "lower-causal-conv": "edgec.passes.lowerings.causal_conv:LowerCausalConv",
    "lower-chunk-scan": "edgec.passes.lowerings.chunk_scan:LowerChunkScan",
    "lower-linear-scan": "edgec.passes.lowerings.linear_scan:LowerLinearScan",
    "lower-attention": "edgec.passes.lowerings.attention:LowerAttention",
    "lower-topk": "edgec.passes.lowerings.topk:LowerTopk",
    "lower-histogram": "edgec.passes.lowerings.histogram:LowerHistogram",
    "lower-grouped-matmul": "edgec.passes.lowerings.grouped_matmul:LowerGroupedMatmul",
    "lower-quantized-grouped-matmul": (
        "edgec.passes.lowerings.quantized_grouped_matmul:LowerQuantizedGroupedMatmul"
    ),
    "verify-lowered": "edgec.passes.verify_lowered:VerifyLowered",
    "cut-double-reads": "edgec.passes.mends.cut_double_reads:CutDoubleReads",
    "bound-reductions": "edgec.passes.mends.bound_reductions:BoundReductions",
    "lower-argmax": "edgec.passes.lowerings.argmax:LowerArgmax",
    "state-in-place": "edgec.passes.mends.state_in_place:StateInPlace",
    "workload-ordinals": "edgec.passes.mends.workload_ordinals:WorkloadOrdinals",
    "verify-dispatches": "edgec.passes.mends.verify_dispatches:VerifyDispatches",
}

LOWERINGS = {
    "attention": "lower-attention",
    "cache_update": "lower-cache-update",
    "causal_conv": "lower-causal-conv",
    "chunk_scan": "lower-chunk-scan",
    "grouped_matmul": "lower-grouped-matmul",
    "histogram": "lower-histogram",
    "linear": "lower-linear",
    "linear_scan": "lower-linear-scan",
    "quantized_cache_update": "lower-quantized-cache-update",
    "quantized_embedding": "lower-quantized-embedding",
    "quantized_grouped_matmul": "lower-quantized-grouped-matmul",
    "quantized_linear": "lower-quantized-linear",
    "topk": "lower-topk",
}
"""Operator `edgec::<name>` to the pass that lowers it."""


def load_pass(name: str, options: dict[str, Any]) -> ModulePass:
    """Instantiates a pass; raises ValueError when the name or an option is unknown."""
    if name not in PASSES:
        raise ValueError(f"unknown pass '{name}'; there are: {', '.join(PASSES)}")
    module, _, class_name = PASSES[name].partition(":")
    try:
        instance: ModulePass = getattr(import_module(module), class_name)(**options)
    except TypeError as error:
        raise ValueError(f"pass '{name}': {error}") from None
    return instance
