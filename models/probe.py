"""Whether a model's own attention code is right over a cache with rows that are not yet there.

Such code works with a cache that grows, and may tell positions by its size. So a miniature of the
model is run both ways before its graph is trusted: a wrong answer would not be noticed later.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from edgec.errors import ModelError
from edgec.models.call import call, place
from edgec.models.plugs.discovery import Discovery
from edgec.models.plugs.state import SequenceState
from edgec.models.tiny import shrunk, tiny_model

__all__ = ["check_own_attention", "worst_error"]

_CAPACITY = 160
_BLOCK = 32
_TOLERANCE = 1e-4  # of the range of the logits
# The tokens of one call after the other: padded and whole blocks, single tokens, a follow-up.
_CALLS = (33, 1, 1, 5, 32, 1)


def check_own_attention(config: Any, *, trust_remote_code: bool = False) -> None:
    """Compares a miniature with transformers' cache and with edgec's.

    Args:
        config: The configuration of the model; it is not changed.
        trust_remote_code: Whether modelling code that came with the model may run.

    Raises:
        ModelError: they differ, or it cannot be found out.
    """
    where = f"model type '{config.model_type}'"
    try:
        # Of a model that takes more than text, the part for text where it is a model by itself.
        text = config.get_text_config(decoder=True)
        alone = type(text) in MODEL_FOR_CAUSAL_LM_MAPPING
        small = shrunk(copy.deepcopy(text if alone else config))
        small.name_or_path = config.name_or_path  # where transformers finds a model's own code
        model = tiny_model(small, trust_remote_code=trust_remote_code)
        worst = worst_error(model, model, native_attention=True)
    except ModelError as error:
        raise ModelError(f"{where}: {error.what}", error.remedy) from None
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{where}: a miniature of it does not run: {line}{place(error)}"
        ) from error
    if worst > _TOLERANCE:
        raise ModelError(
            f"{where}: its own attention code depends on a cache that grows: the logits of a "
            f"miniature are off by {worst:.0e} of their range",
            "this form of attention is not supported yet",
        )


def worst_error(model: Any, reference: Any, *, native_attention: bool) -> float:
    """The largest error after any call, in units of the logits' range.

    Args:
        model: Over edgec's cache.
        reference: transformers' own module of the same weights, without a cache.
        native_attention: Whether `model` attends with its own code (see `Discovery`).
    """
    ids = torch.randint(3, 200, (1, sum(_CALLS)), generator=torch.Generator().manual_seed(1))
    discovery = Discovery(native_attention=native_attention)
    worst, done = 0.0, 0
    with torch.no_grad():
        start, length = torch.tensor(0), torch.tensor(_BLOCK)
        call(
            model,
            *_block(ids[:, :_BLOCK], 0),
            SequenceState(start, _CAPACITY, discovery, None, length),
        )
        buffers = {name: kept.zeros(_CAPACITY) for name, kept in discovery.state.items()}
        for count in _CALLS:
            new = ids[:, done : done + count]
            padded = new if count == 1 else _padded(new)
            true = None if count == 1 else torch.tensor(count)
            state = SequenceState(torch.tensor(done), _CAPACITY, discovery, buffers, true)
            logits = call(model, *_block(padded, done), state)[0, count - 1]
            done += count
            expected = reference(ids[:, :done], use_cache=False).logits[0, -1]
            span = float(expected.max() - expected.min())
            worst = max(worst, float((logits - expected).abs().max()) / span)
    return worst if worst == worst else float("inf")


def _block(ids: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    return ids.to(torch.int32), (torch.arange(ids.shape[1]) + start)[None]


def _padded(ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(ids, (0, -ids.shape[1] % _BLOCK))
