"""The prompt as part of a completion's answer, and its log-probabilities in OpenAI's old form."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from edgec.runtime.results import TokenLogprobs
from edgec.runtime.server import answers
from edgec.runtime.server.service import Served

__all__ = ["echo_text", "new_logprobs", "prompt_logprobs", "token_logprobs"]


def echo_text(served: Served, prompt: str | Sequence[int]) -> str:
    """The prompt as text: as it was given, or what its ids spell, special tokens too."""
    if isinstance(prompt, str):
        return prompt
    return served.model.tokenizer.decode(prompt, skip_special_tokens=False)


def new_logprobs() -> dict[str, list[Any]]:
    """Log-probabilities of no tokens."""
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def token_logprobs(served: Served, token: int, given: TokenLogprobs, offset: int) -> dict[str, Any]:
    """The entry of a token for each of the lists. As OpenAI says, the token itself is in
    `top_logprobs` too."""
    text = answers.token_text(served, token)[0]
    top: dict[str, float] = {}
    for each, value in (*given.top, (token, given.token)):
        # Parts of characters all look alike: the most probable one stands for them.
        top.setdefault(answers.token_text(served, each)[0], max(value, answers.LEAST))
    return {
        "tokens": text,
        "token_logprobs": max(given.token, answers.LEAST),
        "top_logprobs": top,
        "text_offset": offset,
    }


def prompt_logprobs(
    served: Served, text: str, ids: Sequence[int], scores: Sequence[TokenLogprobs]
) -> dict[str, list[Any]]:
    """Log-probabilities of a prompt's tokens; the first has none.

    Args:
        text: The prompt as it is echoed, which the offsets count in.
        scores: Those of all tokens but the first.
    """
    lists = new_logprobs()
    offsets = _offsets(served, text, ids)
    for number, token in enumerate(ids):
        if number:
            entry = token_logprobs(served, token, scores[number - 1], offsets[number])
        else:
            entry = {
                "tokens": answers.token_text(served, token)[0],
                "token_logprobs": None,
                "top_logprobs": None,
                "text_offset": 0,
            }
        for name, value in entry.items():
            lists[name].append(value)
    return lists


def _offsets(served: Served, text: str, ids: Sequence[int]) -> list[int]:
    """Offsets in the text at which the tokens begin."""
    pieces = [served.grammars.piece(token) for token in ids]
    # A beginning-of-text that the tokenizer adds, or a space before the first word, is not there.
    if pieces and not text.encode("utf-8", "replace").startswith(pieces[0]):
        shorter = pieces[0].removeprefix(b" ")
        pieces[0] = shorter if text.encode("utf-8", "replace").startswith(shorter) else b""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets, at = [], 0
    for piece in pieces:
        offsets.append(min(at, len(text)))
        at += len(decoder.decode(piece))
    return offsets
