"""The families that stand for the kinds of state where checking all would take too long."""

from __future__ import annotations

__all__ = ["SAMPLE", "TARGET"]

TARGET = "vulkan:llvmpipe"

SAMPLE = (
    "llama",  # attention, rotated positions
    "gemma2",  # sliding windows, softcaps
    "gemma3_text",  # windows and rotations by layer
    "gpt2",  # learned positions
    "bloom",  # ALiBi
    "gpt_oss",  # sinks, experts
    "deepseek_v3",  # latent attention, grouped routing
    "granitemoe",  # experts
    "qwen3_moe",  # experts, norms of heads
    "lfm2",  # short convolutions
    "lfm2_moe",  # and experts
    "mamba2",  # convolutions and a recurrence, no attention
    "qwen3_next",  # gated delta-net beside attention
    "falcon_h1",  # attention and a recurrence in one layer
)
