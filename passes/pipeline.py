"""The order of edgec's passes, as values; the manifest and `edgec-opt` have them as text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.registry import ModulePass, load_pass

__all__ = [
    "INPUT_PIPELINE",
    "STREAM_PIPELINE",
    "TORCH_PIPELINE",
    "PassSpec",
    "Pipeline",
    "parse_module",
]

_ELEMENT = re.compile(r"\s*(?P<name>[\w-]+)\s*(\{(?P<options>[^}]*)\})?\s*(,|$)")


@dataclass(frozen=True)
class PassSpec:
    """A pass by name, with its options.

    Attributes:
        name: A key of `PASSES`.
        options: Fields of the pass, such as `("form", "cpu")`.
    """

    name: str
    options: tuple[tuple[str, str | int], ...] = ()

    def __str__(self) -> str:
        options = " ".join(f"{key}={value}" for key, value in self.options)
        return f"{self.name}{{{options}}}" if options else self.name

    def load(self) -> ModulePass:
        return load_pass(self.name, dict(self.options))


@dataclass(frozen=True)
class Pipeline:
    """Passes in order. What changes it names a pass that it has, or fails."""

    passes: tuple[PassSpec, ...]

    @staticmethod
    def parse(text: str) -> Pipeline:
        """Reads `pass-a,pass-b{option=1 other=x}`; raises ValueError naming what is wrong."""
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
            specs.append(PassSpec(match["name"], tuple(options.items())))
            at = match.end()
        return Pipeline(tuple(specs))

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    def with_options(self, name: str, **options: str | int) -> Pipeline:
        """Sets options of the pass `name`, beside those that it has.

        Raises:
            ValueError: there is no such pass.
        """
        at = self._index(name)
        changed = PassSpec(name, tuple((dict(self.passes[at].options) | options).items()))
        return Pipeline((*self.passes[:at], changed, *self.passes[at + 1 :]))

    def without(self, name: str) -> Pipeline:
        """Leaves the pass `name` out.

        Raises:
            ValueError: there is no such pass.
        """
        at = self._index(name)
        return Pipeline((*self.passes[:at], *self.passes[at + 1 :]))

    def after(self, name: str, added: str, **options: str | int) -> Pipeline:
        """Inserts the pass `added` behind the pass `name`.

        Raises:
            ValueError: there is no such pass.
        """
        at = self._index(name) + 1
        spec = PassSpec(added, tuple(options.items()))
        return Pipeline((*self.passes[:at], spec, *self.passes[at:]))

    def then(self, added: str, **options: str | int) -> Pipeline:
        """Appends the pass `added`."""
        return Pipeline((*self.passes, PassSpec(added, tuple(options.items()))))

    def _index(self, name: str) -> int:
        names = [spec.name for spec in self.passes]
        if name not in names:
            raise ValueError(f"pipeline: no pass {name} in {', '.join(names)}")
        return names.index(name)

    def run(self, module: ir.Module) -> None:
        """Runs the passes on `module`, verifying the IR after each.

        Raises:
            ValueError: an unknown pass, or IR that a pass cannot handle; the pass is named.
        """
        for spec in self.passes:
            try:
                spec.load().run(module)
                module.operation.verify()
            except (ValueError, ir.MLIRError) as error:
                raise ValueError(f"pass {spec.name}: {_first_error(error)}") from error


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

TORCH_PIPELINE = Pipeline(tuple(map(PassSpec, _TORCH_PASSES)))
"""On the exported module, in the torch dialect."""

# In either order.
INPUT_PIPELINE = Pipeline((PassSpec("state-in-place"), PassSpec("cut-double-reads")))
"""After `iree-compile --compile-to=input`. Aliases exist only from there on."""

STREAM_PIPELINE = Pipeline((PassSpec("workload-ordinals"), PassSpec("verify-dispatches")))
"""After `iree-compile --compile-to=stream`: dispatches are formed, and called, but not compiled."""


def parse_module(text: str) -> ir.Module:
    """Parses IR in the current context; raises ValueError saying where in the text it is wrong."""
    try:
        return ir.Module.parse(text)
    except ir.MLIRError as error:
        raise ValueError(_first_error(error)) from None


def _first_error(error: Exception) -> str:
    """The first diagnostic as one line; MLIR prints its own headline and then all of them."""
    lines = str(error).splitlines() or [type(error).__name__]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines)[0]
