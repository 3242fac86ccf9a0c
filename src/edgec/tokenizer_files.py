"""The names of the files beside a model's weights that an artifact carries along."""

from __future__ import annotations

__all__ = ["TOKENIZER_FILES"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""Tokenizer, chat template and generation defaults; the runtime reads each where it is there."""
