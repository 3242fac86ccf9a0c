"""From what a user gives, text or messages or ids, to checked token ids and options."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import InputError
from edgec.runtime.chat import Message
from edgec.runtime.config import TO_THE_END, GenerationConfig, check_integer, check_number
from edgec.runtime.model import LoadedModel
from edgec.runtime.sampling import TokenFilter
from edgec.runtime.sequence import check_ids

__all__ = ["Prompt", "Task", "encode_prompt", "encode_text", "prepare"]

Prompt = str | Seq[Message] | Seq[int] | npt.NDArray[np.integer[Any]]
"""Text, chat messages, or token ids."""


@dataclass(frozen=True)
class Task:
    """A generation that was asked for, and that can be computed.

    Attributes:
        config: With a `max_new_tokens` that fits in the context.
        logprobs: How many of the most probable tokens come with each chunk; None: not even its own.
        score_prompt: Whether the log-probabilities of the prompt's tokens are wanted, each by a
            decode step.
        score_only: Whether nothing is generated after that.
        started: When the user asked, as of `time.perf_counter`.
        deadline: When it fails if it is not done, on the same clock.
    """

    ids: list[int]
    config: GenerationConfig
    token_filter: TokenFilter | None
    logprobs: int | None
    score_prompt: bool
    score_only: bool
    started: float
    deadline: float | None


def encode_prompt(
    model: LoadedModel, prompt: Prompt, chat_template_kwargs: Mapping[str, Any] | None = None
) -> list[int]:
    """The prompt as token ids.

    Raises:
        InputError: it is empty, of another kind, or the model has no chat template.
    """
    if isinstance(prompt, str):
        return _not_empty(encode_text(model, prompt))
    # Bytes would pass for ids.
    items: list[Any] = _not_empty([prompt] if isinstance(prompt, bytes) else list(prompt))
    if all(isinstance(item, Mapping) for item in items):
        if model.chat_template is None:
            raise InputError("this model has no chat template", "give the prompt as text")
        variables = dict(chat_template_kwargs or {})
        if not all(isinstance(name, str) for name in variables):
            raise InputError("chat_template_kwargs: names must be text")
        text = model.chat_template.render(items, **variables)
        return _not_empty(encode_text(model, text, add_special_tokens=False))
    if all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in items):
        return [int(item) for item in items]
    raise InputError("prompt: must be text, a list of chat messages, or a list of token ids")


def encode_text(model: LoadedModel, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """Text as token ids; what cannot fit into the context is refused before it is looked at.

    Raises:
        TextTooLong: it cannot fit.
        InputError: the tokenizer fails on it.
    """
    context = model.program.manifest.model.context
    return model.tokenizer.encode(text, add_special_tokens=add_special_tokens, context=context)


def prepare(
    model: LoadedModel,
    prompt: Prompt,
    *,
    chat_template_kwargs: Mapping[str, Any] | None,
    token_filter: TokenFilter | None,
    logprobs: int | None,
    score_prompt: bool,
    timeout: float | None,
    options: Mapping[str, Any],
) -> Task:
    """Checks what was asked for; refuses what cannot be computed.

    Raises:
        InputError: a bad prompt or option, or more tokens than the context holds.
    """
    started = time.perf_counter()
    score_only = score_prompt and options.get("max_new_tokens") == 0
    if score_only:
        options = {**options, "max_new_tokens": 1}
    config = model.defaults.updated(options)
    ids = encode_prompt(model, prompt, chat_template_kwargs)
    check_ids(ids, model.vocab_size)
    config = _fitting(model, config, len(ids), options, score_only)
    if score_prompt:
        logprobs = logprobs or 0
    if logprobs is not None:
        check_integer("logprobs", logprobs, 0, model.vocab_size)
    if timeout is not None:
        check_number("timeout (seconds)", timeout, 0.0, above=True)
    deadline = None if timeout is None else started + timeout
    return Task(ids, config, token_filter, logprobs, score_prompt, score_only, started, deadline)


def _fitting(
    model: LoadedModel,
    config: GenerationConfig,
    length: int,
    options: Mapping[str, Any],
    score_only: bool,
) -> GenerationConfig:
    """The options with limits that fit into the context behind a prompt."""
    context = model.program.manifest.model.context
    room = context - length + score_only
    limit = config.max_new_tokens
    if limit is None or limit == TO_THE_END:
        limit = max(1, room)
    elif options.get("max_new_tokens") is None:
        # Nobody asked for so many: what fits will do.
        limit = max(1, min(limit, room))
    if limit > room:
        raise InputError(
            f"a prompt of {length} tokens and {limit} new ones are beyond the context of {context}",
            "shorten the prompt, lower max_new_tokens, or compile with a larger --ctx-size",
        )
    least = min(config.min_new_tokens, limit)
    return dataclasses.replace(config, max_new_tokens=limit, min_new_tokens=least)


def _not_empty(items: list[Any]) -> list[Any]:
    if not items:
        raise InputError("empty prompt", "give at least one token of text")
    return items
