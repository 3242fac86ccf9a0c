"""The fields of requests, as OpenAI names them, and edgec's own.

A field that is not here is refused, and so is a value of another type: nothing is ignored in
silence. Fields of OpenAI's that can only be honoured with one value take that value.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = [
    "ChatRequest",
    "CompletionRequest",
    "DetokenizeRequest",
    "FunctionDefinition",
    "GenerationRequest",
    "Grammar",
    "JsonSchemaFormat",
    "Message",
    "NamedTool",
    "ResponseFormat",
    "TokenizeRequest",
    "Tool",
]


class Strict(BaseModel):
    """No other fields, no conversions between types, no infinities."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _text_of_parts(value: Any) -> Any:
    """OpenAI's list of content parts, which here must all be text, as one text."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            what = f"a content part of type {kind!r}" if kind else "a content part without a type"
            raise ValueError(f"{what}: this model reads text only")
        text = part.get("text" if kind == "text" else "refusal")
        if not isinstance(text, str) or set(part) - {"type", "text", "refusal"}:
            raise ValueError("a text part has the fields type and text")
        texts.append(text)
    return "".join(texts)


class FunctionCall(Strict):
    name: str
    arguments: str


class ToolCall(Strict):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Strict):
    """One message of a conversation. Content parts are joined: this is a text model."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | None, BeforeValidator(_text_of_parts)] = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _fits_role(self) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError(f"content: required in a message of role {self.role!r}")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls: only an assistant's message has them")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("tool_call_id: required in a message of role 'tool'")
        return self


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class JsonSchema(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchemaFormat(Strict):
    """JSON that a schema allows."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


class Grammar(Strict):
    """edgec's own: what the answer must match, as llguidance's Lark dialect or a regex."""

    syntax: Literal["lark", "regex"]
    definition: Annotated[str, Field(min_length=1)]


class FunctionDefinition(Strict):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """Something that the model may use: functions only."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Strict):
    name: str


class NamedTool(Strict):
    """A `tool_choice` that forces one function."""

    type: Literal["function"]
    function: NamedFunction


Stop = str | Annotated[list[str], Field(max_length=4)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[int, Field(ge=1)]


class GenerationRequest(Strict):
    """What chats and completions share."""

    model: str | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    grammar: Grammar | None = None
    session_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    cache_prompt: bool | None = None
    user: Annotated[str, Field(max_length=256)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream=true")
        return self


class ChatRequest(GenerationRequest):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        limits = (self.max_tokens, self.max_completion_tokens)
        if None not in limits and limits[0] != limits[1]:
            raise ValueError("max_tokens: differs from max_completion_tokens; give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs=true")
        if self.tools is None and self.tool_choice not in (None, "none"):
            raise ValueError("tool_choice: only with tools")
        if self.tools is None and self.parallel_tool_calls is not None:
            raise ValueError("parallel_tool_calls: only with tools")
        return self


class CompletionRequest(GenerationRequest):
    """The body of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CompletionRequest:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo: not together with logprobs")
        return self


class TokenizeRequest(Strict):
    """The body of /tokenize, as in llama.cpp."""

    content: str
    add_special: bool = False
    with_pieces: bool = False


class DetokenizeRequest(Strict):
    """The body of /detokenize, as in llama.cpp."""

    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]]
