"""Chooses the next token from logits, with transformers' semantics, in numpy.

Order, as in transformers' `generate`: repetition penalty (Keskar et al., arXiv:1909.05858),
suppression of end-of-text tokens before `min_new_tokens`, temperature, top-k, top-p (nucleus;
Holtzman et al., arXiv:1904.09751), min-p (Nguyen et al., arXiv:2407.01082), then one draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgec.errors import DeviceError, InputError
from edgec.runtime.config import GenerationConfig
from edgec.runtime.results import TokenLogprobs

__all__ = [
    "Sampler",
    "TokenFilter",
    "candidates",
    "logprobs_of",
    "not_finite",
    "penalize_repetition",
]

Ids = npt.NDArray[np.intp]
Scores = npt.NDArray[np.float32]


class TokenFilter(Protocol):
    """Narrows what may be generated: a grammar, a schema, a list of words."""

    def mask(self, tokens: Sequence[int], logits: Scores) -> None:
        """Sets the logits of tokens that may not come next to -inf, in place.

        Called once for each token that is generated, in order, on the thread that runs the
        model, while others wait: it should take microseconds. The ids that came since the last
        call are `tokens[n:]`, where n is the length of the last call's `tokens`. A text that is
        complete is ended by leaving only end-of-text tokens. An exception ends this generation
        with that exception, and no other.

        Args:
            tokens: The ids generated so far, without the prompt. Not to be changed.
            logits: f32[V], after the repetition penalty and before temperature, top-k and top-p.
                At least one must stay finite.
        """
        ...


class Sampler:
    """Picks the tokens of one generation.

    Args:
        config: Validated sampling options. With a `seed` the same logits give the same tokens.
        prompt: The prompt's ids: the repetition penalty counts them as seen.
        vocab_size: The length of the logits.
        token_filter: Narrows each pick.
    """

    def __init__(
        self,
        config: GenerationConfig,
        prompt: Sequence[int],
        vocab_size: int,
        token_filter: TokenFilter | None = None,
    ) -> None:
        self._config = config
        self._filter = token_filter
        self._generated = 0
        self._seen: npt.NDArray[np.bool_] | None = None
        if config.repetition_penalty != 1.0:
            self._seen = np.zeros(vocab_size, np.bool_)
            self._seen[np.asarray(prompt, np.intp)] = True
        self._chooses = not config.greedy or self._seen is not None or token_filter is not None
        self._random = np.random.Generator(np.random.PCG64(config.seed))

    @property
    def needs_logits(self) -> bool:
        """Whether the next pick looks at the logits; if not, the program's argmax is the pick."""
        return self._chooses or self._suppress_eos

    @property
    def _suppress_eos(self) -> bool:
        return bool(self._config.eos_token_id) and self._generated < self._config.min_new_tokens

    def pick(self, logits: Scores, generated: Sequence[int] = ()) -> int:
        """The next token from logits f32[V]; may change the array.

        Args:
            generated: The ids picked so far, for a filter.

        Raises:
            DeviceError: the logits are not finite (an overflow, as a rule).
            InputError: the filter leaves no token.
        """
        if not np.isfinite(logits.max()):
            raise not_finite()
        if self._seen is not None:
            penalize_repetition(logits, np.flatnonzero(self._seen), self._config.repetition_penalty)
        if self._suppress_eos:
            eos = [token for token in self._config.eos_token_id if token < len(logits)]
            logits[eos] = -np.inf
        if self._filter is not None:
            self._filter.mask(generated, logits)
        if not np.isfinite(logits.max()):
            what = "the token filter" if self._filter is not None else "min_new_tokens"
            raise InputError(f"{what} leaves no token that may come next")
        if self._config.greedy:
            return int(logits.argmax())
        ids, probabilities = candidates(logits, self._config)
        cumulative = np.cumsum(probabilities)
        drawn = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(ids[min(int(drawn), len(ids) - 1)])

    def accept(self, token: int) -> None:
        """Counts `token` as generated. To be called for each, also those not picked here."""
        self._generated += 1
        if self._seen is not None:
            self._seen[token] = True


def not_finite() -> DeviceError:
    """For logits that no token can be chosen from: an overflow, or a NaN in the weights."""
    return DeviceError("the model's logits are not finite", "compile with --dtype f32 or bf16")


def logprobs_of(logits: Scores, token: int, count: int) -> TokenLogprobs:
    """The log-probability of `token` and those of the `count` most probable tokens.

    Raises:
        DeviceError: the logits are not finite.
    """
    if not np.isfinite(logits.max()):
        raise not_finite()
    wide = logits.astype(np.float64)
    wide -= wide.max()
    wide -= np.log(np.exp(wide).sum())
    count = min(count, len(wide))
    top = (
        np.argpartition(wide, len(wide) - count)[len(wide) - count :]
        if count
        else np.zeros(0, np.intp)
    )
    top = top[np.argsort(-wide[top], kind="stable")]
    return TokenLogprobs(float(wide[token]), tuple((int(i), float(wide[i])) for i in top))


def penalize_repetition(logits: Scores, seen: Ids, penalty: float) -> None:
    """Divides the positive logits of the tokens `seen` by `penalty`, multiplies the negative.

    What is beyond f32 becomes its largest number: an infinite logit would have no probability.
    """
    scores, largest = logits[seen].astype(np.float64), np.finfo(np.float32).max
    with np.errstate(over="ignore", under="ignore"):
        scores = np.where(scores < 0, scores * penalty, scores / penalty)
    finite = logits[seen] > -np.inf
    logits[seen] = np.where(finite, np.clip(scores, -largest, largest), -np.inf)


def candidates(logits: Scores, config: GenerationConfig) -> tuple[Ids, npt.NDArray[np.float64]]:
    """The tokens that survive temperature, top-k, top-p and min-p.

    Returns:
        Their ids, ascending, and their probabilities, which are above 0 and sum to 1. The order is
        fixed so that a draw depends on the distribution alone.
    """
    if 0 < config.top_k < len(logits):
        # A threshold, not a set of k: transformers keeps all tokens tied with the k-th.
        threshold = np.partition(logits, len(logits) - config.top_k)[len(logits) - config.top_k]
        ids = np.flatnonzero((logits >= threshold) & (logits > -np.inf))
    else:
        ids = np.flatnonzero(logits > -np.inf)
    weights = _softmax(logits[ids], config.temperature)
    ids, weights = ids[weights > 0], weights[weights > 0]
    if config.top_p < 1.0:
        keep = _nucleus(weights, config.top_p)
        ids, weights = ids[keep], weights[keep]
    if config.min_p > 0.0:
        keep = np.flatnonzero(weights >= config.min_p * weights.max())
        ids, weights = ids[keep], weights[keep]
    return ids, weights / weights.sum()


def _nucleus(weights: npt.NDArray[np.float64], top_p: float) -> Ids:
    """Indices, ascending, of the fewest most probable tokens whose probabilities reach `top_p`.

    Of tokens that tie for the last place, the first are kept. The nucleus is small as a rule, so
    the most probable tokens are selected first and only they are sorted.
    """
    for portion in (256, 8192, len(weights)):
        if portion >= len(weights):
            top = np.sort(weights)[::-1]
        else:
            top = np.sort(np.partition(weights, -portion)[-portion:])[::-1]
        kept = max(1, int(np.searchsorted(np.cumsum(top) - top, top_p, side="left")))
        if kept < len(top):
            break
    last = top[kept - 1]
    keep = weights > last
    tied = np.flatnonzero(weights == last)
    keep[tied[: kept - int(keep.sum())]] = True
    return np.flatnonzero(keep)


def _softmax(scores: Scores, temperature: float) -> npt.NDArray[np.float64]:
    """Probabilities. Near a temperature of 0 only the largest logit is left."""
    below = scores.astype(np.float64) - scores.max()
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp(below / temperature)
    total: npt.NDArray[np.float64] = weights / weights.sum()
    return total
