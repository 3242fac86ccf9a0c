"""The keys by which a configuration gives its number of experts."""

from __future__ import annotations

__all__ = ["EXPERT_COUNT_KEYS"]

EXPERT_COUNT_KEYS = (
    "moe_num_experts",
    "n_routed_experts",
    "num_experts",
    "num_local_experts",
    "num_routed_experts",
)
"""One for each spelling that a family uses."""
