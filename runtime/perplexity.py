"""Perplexity of an artifact on a text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.errors import InputError
from edgec.runtime.session import Session

__all__ = ["Perplexity", "perplexity"]


@dataclass(frozen=True)
class Perplexity:
    """The result.

    Attributes:
        tokens: How many were predicted.
        nll: Mean negative log-likelihood of a token, in nats.
        perplexity: `exp(nll)`.
        top1: Share of the tokens that were the most likely ones.
        window: Tokens that a prediction could look back on, at most.
    """

    tokens: int
    nll: float
    perplexity: float
    top1: float
    window: int


def perplexity(
    session: Session,
    text: str,
    *,
    window: int = 512,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Perplexity:
    """Perplexity over windows that do not overlap, each from an empty state.

    Every token but a window's first is predicted from those before it in the window. Tokens are
    decoded one by one: a prefill returns the logits of its last token only.

    Args:
        session: Is reset.
        text: Tokenised as a whole, without special tokens in between.
        window: Tokens; no more than the artifact's context.
        limit: Only the first so many tokens of the text.
        progress: Called with the tokens done and their total.

    Raises:
        InputError: fewer than two tokens, or a window that does not fit.
    """
    context = session.sequence.context
    if not 2 <= window <= context:
        raise InputError(f"window {window}: must be from 2 to the context, {context} tokens")
    # A text is read in windows: it need not fit into the context.
    ids = session.model.tokenizer.encode(text)[:limit]
    if len(ids) < 2:
        raise InputError("perplexity: the text has fewer than two tokens", "give a longer one")
    total, hits, count = 0.0, 0, 0
    for first in range(0, len(ids) - 1, window):
        part = ids[first : first + window]
        session.reset()
        for token, following in pairwise(part):
            logits = session.decode(token)
            total += _nll(logits, following)
            hits += int(logits.argmax()) == following
            count += 1
        progress(min(first + window, len(ids)), len(ids))
    nll = total / count
    return Perplexity(count, nll, math.exp(nll), hits / count, window)


def _nll(logits: npt.NDArray[np.float32], token: int) -> float:
    wide: npt.NDArray[Any] = logits.astype(np.float64)
    most = wide.max()
    return float(np.log(np.exp(wide - most).sum()) + most - wide[token])
