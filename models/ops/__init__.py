"""Custom operators that edgec compiles: schema, shape rule and eager reference, one file each.

`edgec.passes` lowers exactly these names; a test compares the two sets.
"""

from edgec.models.ops.attention import attention
from edgec.models.ops.cache_update import cache_update
from edgec.models.ops.causal_conv import causal_conv
from edgec.models.ops.chunk_scan import chunk_scan
from edgec.models.ops.grouped_matmul import grouped_matmul
from edgec.models.ops.histogram import histogram
from edgec.models.ops.linear import linear
from edgec.models.ops.linear_scan import linear_scan
from edgec.models.ops.quantized_cache_update import quantized_cache_update
from edgec.models.ops.quantized_embedding import quantized_embedding
from edgec.models.ops.quantized_grouped_matmul import quantized_grouped_matmul
from edgec.models.ops.quantized_linear import quantized_linear
from edgec.models.ops.topk import topk

__all__ = [
    "OPS",
    "attention",
    "cache_update",
    "causal_conv",
    "chunk_scan",
    "grouped_matmul",
    "histogram",
    "linear",
    "linear_scan",
    "quantized_cache_update",
    "quantized_embedding",
    "quantized_grouped_matmul",
    "quantized_linear",
    "topk",
]

OPS = tuple(name for name in __all__ if name != "OPS")
