"""The fields of requests, as OpenAI names them, and edgec's own.

What becomes of a field that is not here is in the table of `fields`. A value of another type is
refused. Fields of OpenAI's that can only be honoured with one value take that value.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from edgec.runtime.server.fields import Body

__all__ = [
    "ChatRequest",
    "CompletionRequest",
    "DetokenizeRequest",
    "FunctionDefinition",
    "GenerationRequest",
    "Grammar",
    "JsonSchema",
    "JsonSchemaFormat",
    "Message",
    "NamedTool",
    "ResponseFormat",
    "TokenizeRequest",
    "Tool",
    "ToolCall",
]

MOST_CHOICES = 64
MOST_STOPS = 1024
DEFAULT_TOKENS = 16
"""OpenAI's `max_tokens` of a completion that does not say."""


class Part(Body):
    """A part of a message's content. All must be text."""

    places = ("part",)

    type: str
    text: str | None = None
    refusal: str | None = None

    @property
    def words(self) -> str:
        """The text."""
        return (self.refusal if self.type == "refusal" else self.text) or ""


def _parts(value: Any) -> Any:
    """Content as a list of parts."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if value is not None and not isinstance(value, list):
        raise ValueError("must be text, or a list of content parts")
    for part in value or ():
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text", "output_text", "refusal"):
            what = f"a content part of type {kind!r}" if kind else "a content part without a type"
            raise ValueError(f"{what}: this model reads text only")
        if not isinstance(part.get("refusal" if kind == "refusal" else "text"), str):
            raise ValueError("a text part has the fields type and text")
    return value


class FunctionCall(Body):
    """The function that a tool call names."""

    places = ("function",)

    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCall(Body):
    """A call that the model made earlier."""

    places = ("call",)

    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCall


class Message(Body):
    """One message of a conversation. Content parts are joined: this is a text model."""

    places = ("message",)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[list[Part] | None, BeforeValidator(_parts)] = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    function_call: FunctionCall | None = None

    @model_validator(mode="after")
    def _fits_role(self) -> Message:
        given = "content" in self.model_fields_set
        if not given and self.role not in ("assistant", "tool", "function"):
            raise ValueError(f"content: required in a message of role {self.role!r}")
        if (self.tool_calls or self.function_call) and self.role != "assistant":
            raise ValueError("tool_calls: only an assistant's message has them")
        return self

    @property
    def text(self) -> str | None:
        """The content as one text."""
        if self.content is None:
            return None
        return "".join(part.words for part in self.content)


class StreamOptions(Body):
    """Options of a stream besides the text."""

    places = ("stream_options",)

    include_usage: bool | None = None


class JsonSchema(Body):
    """A schema and its name, which no answer depends on."""

    name: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class TextFormat(Body):
    """No form."""

    type: Literal["text"]


class JsonObjectFormat(Body):
    """Any JSON object; with a `schema`, as llama.cpp has it, one that the schema allows."""

    type: Literal["json_object"]
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class JsonSchemaFormat(Body):
    """JSON that a schema allows. llama.cpp has the schema in `schema`."""

    type: Literal["json_schema"]
    json_schema: JsonSchema

    @model_validator(mode="before")
    @classmethod
    def _schema_beside(cls, given: Any) -> Any:
        if isinstance(given, dict) and "json_schema" not in given and "schema" in given:
            rest = {name: value for name, value in given.items() if name != "schema"}
            return {**rest, "json_schema": {"schema": given["schema"]}}
        return given


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


class Grammar(Body):
    """edgec's own: what the answer must match, as llguidance's Lark dialect or a regex."""

    syntax: Literal["lark", "regex"]
    definition: Annotated[str, Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _is_object(cls, given: Any) -> Any:
        if isinstance(given, str):
            raise ValueError('GBNF is not taken; give {"syntax": "lark", "definition": ...}')
        return given


class FunctionDefinition(Body):
    """A function that the model may call; `parameters` is a JSON schema."""

    places = ("tool function",)

    # A name stands between the marks of the formats in which models write calls.
    name: Annotated[str, Field(pattern=r"^[^\s<>\[\]{}\"'\\]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """Something that the model may use: functions only."""

    places = ("tool",)

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Body):
    """The function of a `tool_choice`."""

    name: str


class NamedTool(Body):
    """A `tool_choice` that forces one function."""

    type: Literal["function"]
    function: NamedFunction


def _stops(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("must be text or a list of texts")
    if len(value) > MOST_STOPS:
        raise ValueError(f"at most {MOST_STOPS} texts")
    if not all(value):
        raise ValueError("must not be empty text")
    return value


Stop = Annotated[list[str] | None, BeforeValidator(_stops)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Logprobs = Annotated[int, Field(ge=0, le=20)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=MOST_STOPS)]
AnySchema = dict[str, Any]


class GenerationRequest(Body):
    """Fields that chats and completions share."""

    model: str | None = None
    max_tokens: int | None = None
    n_predict: int | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop = None
    stop_token_ids: Ids | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    grammar: Grammar | None = None
    guided_json: AnySchema | None = None
    json_schema: AnySchema | None = None
    guided_regex: Annotated[str, Field(min_length=1)] | None = None
    guided_choice: (
        Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None
    ) = None
    session_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    cache_prompt: bool | None = None
    user: Annotated[str, Field(max_length=256)] | None = None

    limits: ClassVar[tuple[str, ...]] = ("max_tokens", "n_predict")
    """Fields that limit the answer."""
    least: ClassVar[int] = 1
    """The smallest limit."""

    @model_validator(mode="after")
    def _one_format(self) -> GenerationRequest:
        if len(formats := self.formats()) > 1:
            raise ValueError(
                f"{formats[0]}: not together with {formats[1]}: "
                "only one of them can say what the answer looks like"
            )
        for name in self.limits:
            limit = getattr(self, name)
            if limit is not None and limit < self.least and limit != -1:
                raise ValueError(
                    f"{name}: must be at least {self.least}, or -1 for what the context holds"
                )
        return self

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer; None: as many as the context holds."""
        given = [getattr(self, name) for name in self.limits]
        return min((each for each in given if each is not None and each >= 0), default=None)

    def formats(self) -> list[str]:
        """Fields that say what the answer looks like."""
        names = ("grammar", "guided_json", "json_schema", "guided_regex", "guided_choice")
        return [name for name in names if getattr(self, name) is not None]

    def form(self) -> Grammar | JsonSchemaFormat | JsonObjectFormat | None:
        """The constraint that the answer must match, by whichever field says it."""
        schema = self.guided_json if self.json_schema is None else self.json_schema
        if schema is not None:
            return JsonSchemaFormat(
                type="json_schema", json_schema=JsonSchema.model_validate({"schema": schema})
            )
        if self.guided_choice is not None:
            choices = " | ".join(json.dumps(choice) for choice in self.guided_choice)
            return Grammar(syntax="lark", definition=f"start: {choices}")
        if self.guided_regex is not None:
            return Grammar(syntax="regex", definition=self.guided_regex)
        return self.grammar


class ChatRequest(GenerationRequest):
    """The body of /v1/chat/completions."""

    places = ("any", "chat")
    limits = ("max_tokens", "n_predict", "max_completion_tokens")

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs=true")
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise ValueError("tool_choice: only with tools")
        return self

    def formats(self) -> list[str]:
        """Fields that say what the answer looks like."""
        form = self.response_format
        formatted = form is not None and form.type != "text"
        return (["response_format"] if formatted else []) + super().formats()

    def form(self) -> Grammar | JsonSchemaFormat | JsonObjectFormat | None:
        """The constraint that the answer must match, by whichever field says it."""
        form = self.response_format
        if isinstance(form, JsonObjectFormat) and form.schema_ is not None:
            return JsonSchemaFormat(
                type="json_schema", json_schema=JsonSchema.model_validate({"schema": form.schema_})
            )
        return super().form() if form is None or isinstance(form, TextFormat) else form


class CompletionRequest(GenerationRequest):
    """The body of /v1/completions."""

    places = ("any", "completion")
    least = 0

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Logprobs | None = None
    echo: bool | None = None
    best_of: int | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CompletionRequest:
        if self.limit == 0 and not self.echo:
            raise ValueError("max_tokens: 0 only with echo")
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of: must be n; edgec does not choose among answers")
        return self

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer; None: as many as the context holds."""
        given = any(getattr(self, name) is not None for name in self.limits)
        return super().limit if given else DEFAULT_TOKENS


class TokenizeRequest(Body):
    """The body of /tokenize, as in llama.cpp."""

    places = ("tokenize",)

    content: str
    add_special: bool = False
    with_pieces: bool = False


class DetokenizeRequest(Body):
    """The body of /detokenize, as in llama.cpp."""

    places = ("detokenize",)

    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]]
