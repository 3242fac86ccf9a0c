"""The order of edgec's passes, as text that `edgec-opt` and the manifest use too."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from iree.compiler import ir

from edgec.passes.registry import ModulePass, load_pass

__all__ = [
    "INPUT_PIPELINE",
    "STREAM_PIPELINE",
    "TORCH_PIPELINE",
    "parse_module",
    "parse_pipeline",
    "run_pipeline",
    "with_options",
]

_TORCH_PASSES = (
    # First: later passes and IREE's range analysis trust the bounds.
    "symbolic-bounds",
    # Before the lowerings, so that they see the position as a host value, not device data.
    "scalar-arguments",
    # After it: the positions of these slices are such values.
    "row-slices",
    # Before the lowerings of what it takes away.
    "fuse-attention",
    # The lowerings are independent of each other.
    "lower-layer-norm",
    "lower-linear",
    "lower-quantized-linear",
    "lower-quantized-embedding",
    "lower-cache-update",
    "lower-quantized-cache-update",
    "lower-causal-conv",
    "lower-chunk-scan",
    "lower-linear-scan",
    "lower-attention",
    "lower-topk",
    "lower-histogram",
    "lower-grouped-matmul",
    "lower-quantized-grouped-matmul",
    # Last: an operator without a lowering is named here, not in an IREE crash.
    "verify-lowered",
)

TORCH_PIPELINE = ",".join(_TORCH_PASSES)
"""On the exported module, in the torch dialect."""

# In either order.
INPUT_PIPELINE = "state-in-place,cut-double-reads"
"""After `iree-compile --compile-to=input`. Aliases exist only from there on."""

STREAM_PIPELINE = "workload-ordinals,verify-dispatches"
"""After `iree-compile --compile-to=stream`: dispatches are formed, and called, but not compiled."""

_ELEMENT = re.compile(r"\s*(?P<name>[\w-]+)\s*(\{(?P<options>[^}]*)\})?\s*(,|$)")


@dataclass(frozen=True)
class PassSpec:
    """A pass by name with its options, as written in a pipeline."""

    name: str
    options: dict[str, str | int] = field(default_factory=dict)

    def load(self) -> ModulePass:
        return load_pass(self.name, dict(self.options))


def parse_pipeline(text: str) -> list[PassSpec]:
    """Parses `pass-a,pass-b{option=1 other=x}`; raises ValueError naming what is wrong."""
    specs, at = [], 0
    while at < len(text):
        match = _ELEMENT.match(text, at)
        if match is None:
            raise ValueError(f"pipeline: cannot read {text[at:]!r}")
        options: dict[str, str | int] = {}
        for item in (match["options"] or "").split():
            key, equals, value = item.partition("=")
            if not equals:
                raise ValueError(f"pipeline: option {item!r} of {match['name']} has no value")
            options[key.replace("-", "_")] = int(value) if value.isdigit() else value
        specs.append(PassSpec(match["name"], options))
        at = match.end()
    return specs


def with_options(text: str, name: str, options: str) -> str:
    """The pipeline `text` with `options` on its pass `name`, after those it has.

    An option that is given again is the later one. Raises ValueError for no such pass.
    """
    passes = text.split(",")
    names = [p.partition("{")[0] for p in passes]
    if name not in names:
        raise ValueError(f"pipeline: no pass {name}")
    at = names.index(name)
    present = passes[at][len(name) :].strip("{}")
    passes[at] = f"{name}{{{f'{present} {options}'.strip()}}}"
    return ",".join(passes)


def parse_module(text: str) -> ir.Module:
    """Parses IR in the current context; raises ValueError saying where in the text it is wrong."""
    try:
        return ir.Module.parse(text)
    except ir.MLIRError as error:
        raise ValueError(_first_error(error)) from None


def run_pipeline(module: ir.Module, text: str) -> None:
    """Runs the passes of `text` on `module`, verifying the IR after each.

    Raises:
        ValueError: an unknown pass, or IR that a pass cannot handle; the pass is named.
    """
    for spec in parse_pipeline(text):
        try:
            spec.load().run(module)
            module.operation.verify()
        except (ValueError, ir.MLIRError) as error:
            raise ValueError(f"pass {spec.name}: {_first_error(error)}") from error


def _first_error(error: Exception) -> str:
    """The first diagnostic as one line; MLIR prints its own headline and then all of them."""
    lines = str(error).splitlines() or [type(error).__name__]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines)[0]
