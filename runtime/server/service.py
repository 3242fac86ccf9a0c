"""State that the routes share: the model once it is loaded, and the server's own affairs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from prometheus_client.core import Metric

import edgec
from edgec.runtime.engine import Engine
from edgec.runtime.model import LoadedModel
from edgec.runtime.server.errors import ApiError
from edgec.runtime.server.fields import Notices
from edgec.runtime.server.grammar import GrammarCompiler
from edgec.runtime.server.log import RequestLog
from edgec.runtime.server.metrics import Metrics, gauge, total
from edgec.runtime.server.options import ServerOptions
from edgec.runtime.server.template import TemplateRenderer
from edgec.runtime.server.tools import detect_format

__all__ = ["Served", "Service", "too_long"]

MESSAGES = 8192
"""Messages that a chat may have, whatever the context: checking each of them takes time."""
BODY, BODY_PER_TOKEN = 512 * 2**10, 64
"""Bytes that a body may have for its tools and grammars, and for each token of the context."""


@dataclass
class Served:
    """A loaded model and what the server made of it."""

    engine: Engine
    name: str
    template: TemplateRenderer | None
    tool_format: str | None
    has_tools: bool

    @property
    def model(self) -> LoadedModel:
        return self.engine.model

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.model.program.manifest.model.context

    @property
    def eos(self) -> tuple[int, ...]:
        return self.model.defaults.eos_token_id

    @property
    def fingerprint(self) -> str:
        """Changes with edgec and with the artifact."""
        return f"edgec-{edgec.__version__}-{self.model.program.manifest.digest[:8]}"

    def encode(self, text: str, param: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a prompt.

        Raises:
            ApiError: 400, it cannot fit in the context; this is known before it is encoded.
        """
        tokenizer = self.model.tokenizer
        if (least := tokenizer.least_tokens(text, self.context)) > self.context:
            raise too_long(self.context, f"at least {least}", param)
        return tokenizer.encode(text, add_special_tokens=add_special_tokens)

    @cached_property
    def grammars(self) -> GrammarCompiler:
        """Its process, which keeps the vocabulary once more, starts when first used."""
        return GrammarCompiler(self.model.tokenizer, self.model.vocab_size, self.eos)


class Service:
    """The state of the server. Loading and stopping are asked for from outside the routes."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.metrics = Metrics()
        self.log = RequestLog()
        self.notices = Notices(options.strict)
        self.created = int(time.time())
        self.stopping = False
        self._served: Served | None = None

    @property
    def max_body(self) -> int:
        """Bytes of the largest request body."""
        if self.options.max_body is not None:
            return self.options.max_body
        context = 0 if self._served is None else self._served.context
        return BODY + BODY_PER_TOKEN * context

    @property
    def most_messages(self) -> int:
        """Messages that a chat may have: each is a token at least."""
        return MESSAGES if self._served is None else min(MESSAGES, self._served.context)

    def require_model(self) -> Served:
        """The loaded model.

        Raises:
            ApiError: 503, it is still loading or the server is about to stop.
        """
        if self.stopping:
            raise ApiError(503, "the server is stopping", code="server_stopping", retry_after=10)
        if self._served is None:
            raise ApiError(503, "the model is loading", code="model_loading", retry_after=2)
        return self._served

    def serve(self, engine: Engine) -> Served:
        """Begins to take requests for a loaded engine."""
        model = engine.model
        name = self.options.alias or model.program.manifest.model.id
        template, source = None, ""
        if model.chat_template is not None:
            source = model.chat_template.source_with_tools
            template = TemplateRenderer(model.chat_template, self.options.template_timeout)
        form = detect_format(source)
        served = Served(engine, name, template, form, "tools" in source)
        self.metrics.add_engine(lambda: _engine_metrics(engine))
        self._served = served
        return served

    def stop(self, drain: float) -> None:
        """Takes no more requests; those that run have some seconds. Returns at once, also from a
        signal handler, and can be called again with fewer seconds."""
        self.stopping = True
        if self._served is not None:
            close = self._served.engine.close
            threading.Thread(target=close, args=(drain,), daemon=True).start()


def too_long(context: int, tokens: str, param: str) -> ApiError:
    """The error for a prompt that the context does not hold, with OpenAI's code."""
    return ApiError(
        400,
        f"this model's context is {context} tokens; the prompt has {tokens}: shorten it",
        param=param,
        code="context_length_exceeded",
    )


def _engine_metrics(engine: Engine) -> Iterable[Metric]:
    stats = engine.stats()
    phases = {name: getattr(stats, name) for name in ("prefilling", "decoding", "inactive")}
    ends = {
        name: getattr(stats, name) for name in ("completed", "cancelled", "failed", "timed_out")
    }
    lives = {
        name: getattr(stats, f"sequences_{name}")
        for name in ("created", "reused", "evicted", "expired", "retired")
    }
    yield gauge("edgec_sequences", "Sequences in memory, by phase", phases, "phase")
    yield gauge("edgec_queued_requests", "Requests that wait for memory", stats.queued)
    yield gauge("edgec_state_bytes", "Memory of all sequences", stats.state_bytes)
    yield gauge("edgec_state_budget_bytes", "What that may be at most", stats.state_budget)
    yield total("edgec_generations", "Generations, by how they ended", ends, "end")
    yield total("edgec_generations_rejected", "Not taken: the queue was full", stats.rejected)
    yield total("edgec_sequence_events", "What happened to sequences", lives, "event")
    yield total("edgec_computed_prompt_tokens", "Prompt tokens computed", stats.prompt_tokens)
    yield total("edgec_prefill_calls", "Calls of the prefill program", stats.prefill_calls)
    yield total("edgec_decode_calls", "Calls of the decode programs", stats.decode_calls)
    yield total("edgec_decode_tokens", "Tokens computed by decode steps", stats.decode_tokens)
