"""How IR is rewritten: named MLIR passes, the lowerings of edgec's operators, the pipelines."""

from edgec.passes.pipeline import (
    INPUT_PIPELINE,
    STREAM_PIPELINE,
    TORCH_PIPELINE,
    Pipeline,
    parse_module,
)
from edgec.passes.registry import LOWERINGS, PASSES

__all__ = [
    "INPUT_PIPELINE",
    "LOWERINGS",
    "PASSES",
    "STREAM_PIPELINE",
    "TORCH_PIPELINE",
    "Pipeline",
    "parse_module",
]
