"""The treatment of each field of a request: one table, and the policy behind it.

A field that changes the answer is honoured, or refused where that cannot be done. A field that
cannot change the answer is passed over: the answer names it in the header `x-edgec-ignored`, and
stderr once. `--strict` refuses it. Fields that the table does not have are passed over.

`docs/server.md` shows this table, and a test compares the two.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from edgec.runtime.server.errors import ApiError

__all__ = ["FIELDS", "HEADER", "Body", "Field", "Notices", "passed_over"]

HEADER = "x-edgec-ignored"
Fate = Literal["honoured", "passed over", "refused"]


@dataclass(frozen=True)
class Field:
    """A row of the table.

    Args:
        place: The part of a request that the fields belong to, see `Body.places`.
        names: Fields with the same fate.
        fate: What becomes of them.
        note: What they do, or why they are not honoured.
        neutral: Values of a refused field that ask for nothing; they are taken.
    """

    place: str
    names: tuple[str, ...]
    fate: Fate
    note: str
    neutral: tuple[Any, ...] = (None,)

    @classmethod
    def row(cls, place: str, names: str, fate: Fate, note: str, *neutral: Any) -> Field:
        """A row from names with space between; null is always neutral."""
        return cls(place, tuple(names.split()), fate, note, (None, *neutral))


_ROWS: tuple[tuple[Any, ...], ...] = (
    ("any", "model", "honoured", ("one model is served; another name is taken and named in the "
     "header, with `--strict` it is 404")),
    ("any", "stream stream_options", "honoured", ("`include_usage`; without `stream` the options "
     "do nothing")),
    ("any", "max_tokens n_predict", "honoured", ("of several limits the smallest holds; what the "
     "context does not hold is cut off; `-1`, and nothing in a chat: to the end of the context; "
     "nothing in a completion: 16")),
    ("any", "min_tokens", "honoured", "no end of text before so many"),
    ("any", "temperature top_p min_p", "honoured", "sampling"),
    ("any", "top_k", "honoured", "sampling; `0` and `-1` keep all"),
    ("any", "repetition_penalty repeat_penalty", "honoured", "one thing; the first name counts"),
    ("any", "presence_penalty frequency_penalty", "honoured", "from -2 to 2"),
    ("any", "logit_bias", "honoured", "token id to -100 … 100"),
    ("any", "seed", "honoured", "the same seed gives the same text"),
    ("any", "n", "honoured", "choices, up to 64"),
    ("any", "stop", "honoured", "text or a list, up to 1024"),
    ("any", "stop_token_ids", "honoured", "tokens that end the text besides the model's own"),
    ("any", "ignore_eos", "honoured", "go on after the model's end of text"),
    ("any", "grammar guided_json guided_regex guided_choice json_schema", "honoured",
     "what the answer must match: see below"),
    ("any", "session_id cache_prompt", "honoured", "reuse of state: see below"),
    ("any", "user", "honoured", "whose prompts are reused: see below; shown in the log"),
    ("any", ("metadata store service_tier safety_identifier prompt_cache_key "
     "prompt_cache_retention prompt_cache_options prediction id_slot"), "passed over",
     "they say how to store, bill, cache or speed up"),
    ("any", "typical_p typ_p tfs_z length_penalty", "refused", ("sampling that edgec does not "
     "have; `1` is taken"), 1),
    ("any", "mirostat dry_multiplier xtc_probability dynatemp_range top_a", "refused",
     "sampling that edgec does not have; `0` is taken", 0),
    ("any", "top_n_sigma", "refused", "sampling that edgec does not have; `-1` is taken", -1, 0),
    ("any", "use_beam_search include_stop_str_in_output continue_final_message", "refused",
     "edgec does not have it; `false` is taken", False),
    ("any", "skip_special_tokens add_generation_prompt", "refused", "always so; `true` is taken",
     True),
    ("any", "bad_words allowed_token_ids", "refused", "give `logit_bias` or `grammar`", []),
    ("any", "guided_grammar structured_outputs", "refused", "give `grammar` or `guided_json`"),
    ("any", "prompt_logprobs truncate_prompt_tokens", "refused", "edgec does not have it", False),
    ("any", "moderation", "refused", "edgec judges no text"),
    ("chat", "messages", "honoured", "the conversation"),
    ("chat", "max_completion_tokens", "honoured", "as `max_tokens`"),
    ("chat", "logprobs top_logprobs", "honoured", ("up to 20; `top_logprobs` above 0 only with "
     "`logprobs`")),
    ("chat", "response_format", "honoured", ("`text`, `json_object`, `json_schema`; the schema may "
     "stand in `schema` too")),
    ("chat", "tools tool_choice", "honoured", ("functions; `[]` is none; `auto` and `none` are "
     "taken without tools, `required` or a name is not")),
    ("chat", "parallel_tool_calls", "honoured", "`false`: one call at most"),
    ("chat", "chat_template_kwargs documents", "honoured", ("variables for the chat template; not "
     "the names that edgec sets itself")),
    ("chat", "chat_template", "refused", "the model's own is used"),
    ("chat", "reasoning_effort verbosity", "honoured", ("variables for a chat template that has "
     "them, else passed over; effort `none` is `enable_thinking: false` where the template has "
     "that")),
    ("chat", "modalities", "honoured", "`[\"text\"]` only"),
    ("chat", "audio reasoning", "passed over", "options of answers that edgec does not give"),
    ("chat", "functions", "refused", "the old form; give `tools`", []),
    ("chat", "function_call", "refused", "the old form; give `tool_choice`", "auto", "none"),
    ("chat", "web_search_options", "refused", "edgec searches nothing"),
    ("completion", "prompt", "honoured", ("text, token ids, or a list of either; with `n`, up to "
     "64 choices")),
    ("completion", "logprobs", "honoured", "up to 20"),
    ("completion", "echo", "honoured", ("the prompt before the answer; with `logprobs` its "
     "log-probabilities too")),
    ("completion", "best_of", "honoured", "as large as `n` only"),
    ("completion", "suffix", "refused", "edgec does not fill in", ""),
    ("message", "role", "honoured", "`developer` is `system`, `function` is `tool`"),
    ("message", "content", "honoured", ("text or parts of type `text`, `input_text`, "
     "`output_text`, `refusal`; null is empty")),
    ("message", "name tool_calls tool_call_id refusal", "honoured", ("given to the chat template; "
     "a call without an id gets one")),
    ("message", "function_call", "honoured", "the old form of a tool call"),
    ("message", "reasoning_content reasoning", "honoured", "one thing; the first name counts"),
    ("message", "audio", "refused", "this model reads text only"),
    ("message", "images", "refused", "this model reads text only", []),
    ("message", "annotations parsed provider_specific_fields cache_control thinking_blocks",
     "passed over", "a client's own, in messages that it sends back"),
    ("part", "type text refusal", "honoured", "text"),
    ("part", "cache_control annotations", "passed over", "cache hints and remarks"),
    ("call", "id type function", "honoured", ("`arguments` as text or as an object; empty or null "
     "is `{}`")),
    ("call", "index", "passed over", "left of a stream's deltas"),
    ("function", "name arguments", "honoured", "of a call"),
    ("function", "parsed_arguments", "passed over", "the client's own"),
    ("tool", "type function", "honoured", "functions only"),
    ("tool", "cache_control", "passed over", "a cache hint"),
    ("tool function", "name description parameters strict", "honoured", ("`parameters` is a JSON "
     "schema")),
    ("stream_options", "include_usage", "honoured", "usage in a last chunk"),
    ("stream_options", "include_obfuscation continuous_usage_stats", "passed over",
     "the text is the same"),
    ("tokenize", "content add_special with_pieces", "honoured", "as in llama.cpp"),
    ("tokenize", "parse_special", "refused", "special tokens in the text are always read", True),
    ("detokenize", "tokens", "honoured", "as in llama.cpp"),
)  # fmt: skip
FIELDS: tuple[Field, ...] = tuple(Field.row(*row) for row in _ROWS)


def _fates() -> dict[str, dict[str, Field]]:
    fates: dict[str, dict[str, Field]] = {}
    for each in FIELDS:
        for name in each.names:
            fates.setdefault(each.place, {})[name] = each
    return fates


_FATES = _fates()


class Body(BaseModel):
    """A part of a request that keeps to the table: no conversions between types, no infinities.

    Attributes:
        places: The parts of the table that are about it.
    """

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
    places: ClassVar[tuple[str, ...]] = ()
    _passed_over: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _keep_to_the_table(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(given, dict):
            return handler(given)
        others = [name for name in given if name not in _names(cls)]
        for name in others:
            row = _row(cls.places, name)
            if row is not None and row.fate == "refused" and not _is_neutral(row, given[name]):
                raise PydanticCustomError(
                    "unsupported_value", "{name}: not supported: {note}",
                    {"name": name, "note": row.note},
                )  # fmt: skip
        model = handler(given)
        model._passed_over = tuple(
            name for name in others
            if (row := _row(cls.places, name)) is None or row.fate == "passed over"
        )  # fmt: skip
        return model


def _names(kind: type[Body]) -> set[str]:
    return {field.alias or name for name, field in kind.model_fields.items()}


def _row(places: Iterable[str], name: str) -> Field | None:
    return next((row for place in places if (row := _FATES.get(place, {}).get(name))), None)


def _is_neutral(row: Field, value: Any) -> bool:
    # True is 1 to Python, but not to a client.
    return any(
        value == each and isinstance(value, bool) == isinstance(each, bool)
        for each in row.neutral
    )  # fmt: skip


def passed_over(body: Body, path: str = "") -> Iterator[str]:
    """Fields of a request that are passed over, such as `messages.tool_calls.index`."""
    for name in body._passed_over:
        yield path + name
    for name in type(body).model_fields:
        value = getattr(body, name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Body):
                yield from passed_over(each, f"{path}{name}.")


class Notices:
    """Tells clients and the operator of fields that are passed over.

    Args:
        strict: Refuses such fields.
    """

    _MOST = 20  # names in a header
    _REMEMBERED = 1000

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._warned: set[str] = set()

    def header(self, names: Iterable[str]) -> str:
        """The header's value; empty when nothing is passed over.

        Raises:
            ApiError: 400 for the first of the fields, with `strict`.
        """
        unique = list(dict.fromkeys(_shown(name) for name in names))
        if unique and self._strict:
            raise ApiError(
                400, f"unknown field: {unique[0]} (--strict refuses fields that edgec passes over)",
                param=unique[0], code="unknown_parameter",
            )  # fmt: skip
        for name in unique:
            if name not in self._warned and len(self._warned) < self._REMEMBERED:
                self._warned.add(name)
                print(f"edgec: requests have {name}, which is passed over", file=sys.stderr)
        more = [f"and {len(unique) - self._MOST} more"] if len(unique) > self._MOST else []
        return ", ".join(unique[: self._MOST] + more)


def _shown(name: str) -> str:
    """A name as a header and a terminal can have it: clients choose these."""
    return re.sub(r"[^\w.$/:@-]", "?", name[:100], flags=re.ASCII)
