"""Departures from what a target does, for measurements; a product's build has none."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.compiler.targets.target import Target

__all__ = ["Experiment"]


@dataclass(frozen=True)
class Experiment:
    """Changes to a target's description. The digest has the description, changed or not.

    Attributes:
        blocks: Whether linear layers split their rows into the target's blocks.
        kernels: Whether linear layers and experts of floats use a CPU's kernels; without them it
            is generated code.
        prompt_sizes: Prefill programs for these lengths, rising from the prompt multiple; empty
            for what the target needs.
    """

    blocks: bool = True
    kernels: bool = True
    prompt_sizes: tuple[int, ...] = ()

    def applied(self, target: Target) -> Target:
        """The target with the changes."""
        pipeline = target.torch_pipeline
        if target.kernels and not self.kernels:
            for name in ("lower-linear", "lower-grouped-matmul"):
                pipeline = pipeline.with_options(name, kernel="generic")
        return dataclasses.replace(
            target,
            torch_pipeline=pipeline,
            block_rows=target.block_rows if self.blocks else 1,
            static_prompts=self.prompt_sizes or target.static_prompts,
        )
