"""Structured output: what must match becomes a mask over tokens, by llguidance.

https://github.com/guidance-ai/llguidance
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from edgec.errors import DeviceError
from edgec.runtime.server.errors import ApiError
from edgec.runtime.server.schemas import Grammar, JsonSchemaFormat, ResponseFormat
from edgec.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

__all__ = ["GrammarCompiler", "GrammarFilter"]

# JSON may hold any space between its parts, and a small model may never end it.
SPACE: JsonCompileOptions = {"whitespace_pattern": r"( |\n {0,8})?"}


class GrammarFilter:
    """Masks the tokens that a grammar does not allow next. For one generation."""

    def __init__(self, matcher: LLMatcher, eos: Sequence[int]) -> None:
        self._matcher = matcher
        self._eos = eos
        self._seen = 0

    def copy(self) -> GrammarFilter:
        """One for another generation, which starts afresh. Only from one that was not used."""
        return GrammarFilter(self._matcher.deep_copy(), self._eos)

    def mask(self, tokens: Sequence[int], logits: npt.NDArray[np.float32]) -> None:
        """See `TokenFilter`. Raises `DeviceError` when the grammar has become too complex."""
        matcher = self._matcher
        for token in tokens[self._seen :]:
            if not matcher.is_stopped():
                matcher.consume_token(token)
        self._seen = len(tokens)
        allowed = np.zeros(len(logits), np.bool_)
        if not matcher.is_stopped():
            bits = np.unpackbits(
                np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little"
            )
            known = min(len(bits), len(logits))  # a vocabulary may be padded past the tokenizer's
            allowed[:known] = bits[:known]
        if matcher.is_error():
            raise DeviceError(f"the grammar cannot be followed: {matcher.get_error()}")
        if matcher.is_accepting() or matcher.is_stopped():
            allowed[list(self._eos)] = True
        logits[~allowed] = -np.inf


class GrammarCompiler:
    """Makes filters for a model's tokens.

    Args:
        vocab_size: The length of the model's logits.
        eos: The ids that end a text.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos: Sequence[int]) -> None:
        self._tokenizer = LLTokenizer(
            tokenizer.to_json(), n_vocab=vocab_size, eos_token=list(eos) or None
        )
        self._eos = tuple(eos) or tuple(self._tokenizer.eos_tokens)
        self._ids = tokenizer

    def marker(self, text: str) -> str:
        """A tool call's marker in Lark: the token where it is one, else its text."""
        index = self._ids.id_of(text)
        if index is not None and self._tokenizer.is_special_token(index):
            return f"<[{index}]>"
        return json.dumps(text)

    def piece(self, token: int) -> bytes:
        """The bytes of a token, which may be a part of a character."""
        return self._tokenizer.decode_bytes([token])

    def from_format(self, form: ResponseFormat | None) -> GrammarFilter | None:
        """A filter for a `response_format`; None for plain text."""
        if isinstance(form, JsonSchemaFormat):
            return self.from_schema(form.json_schema.schema_)
        if form is not None and form.type == "json_object":
            return self.from_schema({"type": "object"})
        return None

    def from_schema(self, schema: dict[str, Any]) -> GrammarFilter:
        """A filter for JSON that a schema allows."""
        grammar = LLMatcher.grammar_from_json_schema(schema, defaults=SPACE)
        return self._compile(grammar, "response_format", "invalid_json_schema")

    def from_grammar(self, grammar: Grammar) -> GrammarFilter:
        """A filter for a grammar of the user's."""
        if grammar.syntax == "regex":
            compiled = LLMatcher.grammar_from_regex(grammar.definition)
        else:
            compiled = LLMatcher.grammar_from_lark(grammar.definition)
        return self._compile(compiled, "grammar", "invalid_grammar")

    def from_tools(self, lark: str) -> GrammarFilter:
        """A filter for tool calls, see `tool_grammar`."""
        return self._compile(LLMatcher.grammar_from_lark(lark), "tools", "invalid_json_schema")

    def _compile(self, grammar: str, param: str, code: str) -> GrammarFilter:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_limits())
        if not matcher.is_error():
            matcher.compute_bitmask()  # that nothing can match shows here at the latest
        if matcher.is_error() or (matcher.is_stopped() and not matcher.is_accepting()):
            why = " ".join(matcher.get_error().split())[:500] or "nothing matches it"
            raise ApiError(400, f"{param}: {why}", param=param, code=code)
        return GrammarFilter(matcher, self._eos)


def _limits() -> LLParserLimits:
    return LLParserLimits(max_grammar_size=500_000)
