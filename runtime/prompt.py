"""From what a user gives, text or messages or ids, to checked token ids and options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import InputError
from edgec.runtime.chat import Message
from edgec.runtime.config import TO_THE_END, GenerationConfig
from edgec.runtime.model import LoadedModel
from edgec.runtime.sequence import check_ids

__all__ = ["Prompt", "encode_prompt", "prepare"]

Prompt = str | Seq[Message] | Seq[int] | npt.NDArray[np.integer[Any]]
"""Text, chat messages, or token ids."""


def encode_prompt(
    model: LoadedModel, prompt: Prompt, chat_template_kwargs: Mapping[str, Any] | None = None
) -> list[int]:
    """The prompt as token ids.

    Raises:
        InputError: it is empty, of another kind, or the model has no chat template.
    """
    if isinstance(prompt, str):
        return _not_empty(model.tokenizer.encode(prompt))
    # Bytes would pass for ids.
    items: list[Any] = _not_empty([prompt] if isinstance(prompt, bytes) else list(prompt))
    if all(isinstance(item, Mapping) for item in items):
        if model.chat_template is None:
            raise InputError("this model has no chat template", "give the prompt as text")
        text = model.chat_template.render(items, **(chat_template_kwargs or {}))
        return _not_empty(model.tokenizer.encode(text, add_special_tokens=False))
    if all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in items):
        return [int(item) for item in items]
    raise InputError("prompt: must be text, a list of chat messages, or a list of token ids")


def prepare(
    model: LoadedModel,
    prompt: Prompt,
    chat_template_kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    score_only: bool = False,
) -> tuple[list[int], GenerationConfig]:
    """Ids and options of a generation that can be computed; refuses any other.

    The options returned have a `max_new_tokens` that fits in the context.

    Args:
        score_only: Nothing is generated, whatever `max_new_tokens` says.

    Raises:
        InputError: a bad prompt or option, or more tokens than the context holds.
    """
    if score_only:
        options = {**options, "max_new_tokens": 1}
    config = model.defaults.updated(options)
    ids = encode_prompt(model, prompt, chat_template_kwargs)
    info = model.program.manifest.model
    check_ids(ids, model.vocab_size)
    room = info.context - len(ids) + score_only
    limit = config.max_new_tokens
    if limit is None or limit == TO_THE_END:
        limit = max(1, room)
    elif options.get("max_new_tokens") is None:
        # Nobody asked for so many: what fits will do.
        limit = max(1, min(limit, room))
    if limit > room:
        raise InputError(
            f"a prompt of {len(ids)} tokens and {limit} new ones are beyond the context of "
            f"{info.context}",
            "shorten the prompt, lower max_new_tokens, or compile with a larger --ctx-size",
        )
    least = min(config.min_new_tokens, limit)
    return ids, dataclasses.replace(config, max_new_tokens=limit, min_new_tokens=least)


def _not_empty(items: list[Any]) -> list[Any]:
    if not items:
        raise InputError("empty prompt", "give at least one token of text")
    return items
