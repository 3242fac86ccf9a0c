"""From a checked request body to generations on the engine."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from edgec.errors import DeviceError, EdgecError, EngineClosed, QueueFull, RequestTimeout
from edgec.errors import InputError as EdgecInputError
from edgec.runtime.request import Request
from edgec.runtime.sampling import TokenFilter
from edgec.runtime.server.bias import FilterChain, LogitBias, RepetitionCounts
from edgec.runtime.server.errors import ApiError
from edgec.runtime.server.grammar import GrammarFilter
from edgec.runtime.server.messages import unused_variables
from edgec.runtime.server.schemas import ChatRequest, GenerationRequest, Grammar
from edgec.runtime.server.service import Served

__all__ = [
    "Call",
    "answer_limit",
    "api_error",
    "make_filter",
    "make_grammar",
    "sampling_options",
    "unused_fields",
]


@dataclass(frozen=True)
class Call:
    """The arguments to submit for one choice of the answer.

    Attributes:
        score_prompt: Whether the prompt's own log-probabilities are wanted.
        echo: The prompt's text, where the answer begins with it.
    """

    ids: list[int]
    options: dict[str, Any]
    token_filter: TokenFilter | None
    logprobs: int | None
    session_id: str | None
    cache_prompt: bool
    timeout: float | None
    score_prompt: bool = False
    echo: str = ""

    def submit(self, served: Served, scope: str | None = None) -> Request:
        """Starts it. Prompts are reused within a scope.

        Raises:
            ApiError: the engine does not take it.
        """
        try:
            return served.engine.submit(
                self.ids,
                session_id=self.session_id,
                cache_prompt=self.cache_prompt,
                cache_scope=scope,
                token_filter=self.token_filter,
                logprobs=self.logprobs,
                score_prompt=self.score_prompt,
                timeout=self.timeout,
                **self.options,
            )
        except EdgecError as error:
            raise api_error(error) from None


def api_error(error: BaseException) -> ApiError:
    """The message for a client about an error of the engine's."""
    match error:
        case ApiError():
            return error
        case QueueFull():
            return ApiError(429, str(error), code="queue_full", retry_after=1)
        case EngineClosed():
            return ApiError(503, "the server is stopping", code="server_stopping", retry_after=10)
        case RequestTimeout():
            return ApiError(504, str(error), code="timeout")
        case EdgecInputError():
            return ApiError(400, str(error), code="invalid_value")
        case DeviceError():
            return ApiError(503, str(error), code="device_error", retry_after=5)
        case _:
            return ApiError(500, "internal error; the server's log has more", code="internal_error")


def unused_fields(served: Served, body: GenerationRequest) -> list[str]:
    """Honoured fields that mean nothing to this model: they are passed over."""
    unused = [] if body.model in (None, served.name) else ["model"]
    return unused + (unused_variables(served, body) if isinstance(body, ChatRequest) else [])


def answer_limit(served: Served, ids: list[int], limit: int | None, param: str) -> int:
    """The most tokens of an answer: what is asked for, as far as the context holds it.

    Raises:
        ApiError: 400, the prompt is empty, or leaves no room (OpenAI's code
            `context_length_exceeded`).
    """
    if not ids:
        raise ApiError(400, f"{param}: the prompt is empty", param=param, code="invalid_value")
    room = served.context - len(ids)
    if room < (1 if limit is None else min(limit, 1)):
        raise ApiError(
            400,
            f"this model's context is {served.context} tokens and the prompt has {len(ids)}: "
            "shorten it",
            param=param,
            code="context_length_exceeded",
        )
    return room if limit is None else min(limit, room)


def sampling_options(
    served: Served, body: GenerationRequest, limit: int, choice: int
) -> dict[str, Any]:
    """Fields of `GenerationConfig` for one choice; what was not given is left to the model."""
    seed = None
    if body.seed is not None:
        seed = (body.seed + choice) % 2**63
    ends = tuple(body.stop_token_ids or ())
    penalty = body.repetition_penalty
    given: dict[str, Any] = {
        "max_new_tokens": limit,
        "min_new_tokens": body.min_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": None if body.top_k is None else max(body.top_k, 0),
        "min_p": body.min_p,
        "repetition_penalty": body.repeat_penalty if penalty is None else penalty,
        "seed": seed,
        "stop_strings": tuple(body.stop) if body.stop else None,
        "ignore_eos": body.ignore_eos,
    }
    if ends:  # they hold though the model's own may not
        given["eos_token_id"] = ends if body.ignore_eos else served.eos + ends
        given["ignore_eos"] = False
    return {name: value for name, value in given.items() if value is not None}


def make_grammar(served: Served, body: GenerationRequest) -> GrammarFilter | None:
    """The constraint that a request puts on the answer, if any.

    Raises:
        ApiError: 400, it is no grammar, or nothing matches it.
    """
    form = body.form()
    if isinstance(form, Grammar):
        return served.grammars.from_grammar(form)
    return served.grammars.from_format(form)


def make_filter(
    served: Served, body: GenerationRequest, grammar: GrammarFilter | None
) -> Callable[[], TokenFilter | None]:
    """Makes the filter of each choice: they have a state.

    Raises:
        ApiError: a bias for a token that does not exist; a grammar that can never end.
    """
    if grammar is not None and body.ignore_eos:
        raise ApiError(
            400, "ignore_eos: not together with a format, which ends", param="ignore_eos",
            code="invalid_value",
        )  # fmt: skip
    bias = _bias(served, body.logit_bias or {})
    presence, frequency = body.presence_penalty or 0.0, body.frequency_penalty or 0.0

    def make() -> TokenFilter | None:
        filters: list[TokenFilter] = []
        if bias:
            filters.append(LogitBias(bias))
        if presence or frequency:
            filters.append(RepetitionCounts(presence, frequency))
        if grammar is not None:
            filters.append(grammar.copy())
        if len(filters) < 2:
            return filters[0] if filters else None
        return FilterChain(filters)

    return make


def _bias(served: Served, given: MutableMapping[str, float]) -> dict[int, float]:
    bias = {}
    for key, value in given.items():
        # Python refuses to read numbers of thousands of digits.
        number = key.isascii() and key.isdigit() and len(key) <= 20
        if not (number and int(key) < served.model.vocab_size):
            raise ApiError(
                400, f"logit_bias: {key[:40]!r} is no token id of this model", param="logit_bias",
                code="invalid_value",
            )  # fmt: skip
        bias[int(key)] = value
    return bias
