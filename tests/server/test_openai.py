"""OpenAI's own client against the server: each understands the other."""

from __future__ import annotations

import json
import math
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tests.server.conftest import Server

from edgec.artifact import Artifact
from edgec.runtime import Session

QUESTION: list[Any] = [{"role": "user", "content": "Who was Moses?"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


def ask(server: Server, **options: Any) -> Any:
    defaults = {"model": "bundled:tiny-dense", "messages": QUESTION, "temperature": 0}
    return server.client.chat.completions.create(**{**defaults, "max_tokens": 12, **options})


def joined(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    texts = [c.delta.content or "" for x in chunks for c in x.choices if c.index == index]
    return "".join(texts)


def test_models(server: Server) -> None:
    (model,) = server.client.models.list().data
    assert model.id == "bundled:tiny-dense"
    assert server.client.models.retrieve(model.id) == model


def test_chat(server: Server, tiny_dense_artifact: Artifact) -> None:
    answer = ask(server)
    assert isinstance(answer, ChatCompletion)
    session = Session(tiny_dense_artifact)
    expected = session.generate(QUESTION, max_new_tokens=12, temperature=0)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == expected.text
    assert choice.finish_reason == expected.finish_reason
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
    assert answer.usage.completion_tokens == expected.usage.completion_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    timings = answer.to_dict()["timings"]
    assert timings["cache_n"] + timings["prompt_n"] == answer.usage.prompt_tokens
    assert timings["predicted_n"] == 12


def test_chat_stream(server: Server) -> None:
    whole = ask(server)
    chunks = list(ask(server, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(c.choices[0].delta.role is None for c in chunks[1:-1])
    assert joined(chunks) == whole.choices[0].message.content
    reasons = [c.choices[0].finish_reason for c in chunks[:-1]]
    assert reasons == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_on_the_wire(server: Server) -> None:
    body = {"messages": QUESTION, "max_tokens": 3, "stream": True, "temperature": 0}
    answer = server.post("/v1/chat/completions", body)
    assert answer.headers["content-type"] == "text/event-stream"
    *events, end = answer.text.split("\n\n")
    assert end == ""
    assert events[-1] == "data: [DONE]"
    parsed = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert "usage" not in parsed[0]
    assert parsed[-1]["choices"][0]["finish_reason"] == "length"
    assert parsed[-1]["timings"]["predicted_n"] == 3


@pytest.mark.parametrize("prompt", ["In the", ["In the", "And God"], [5, 6, 7], [[5, 6], [9]]])
def test_completion(server: Server, tiny_dense_artifact: Artifact, prompt: Any) -> None:
    create = server.client.completions.create
    answer = create(model="bundled:tiny-dense", prompt=prompt, max_tokens=6, temperature=0)
    single = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
    session = Session(tiny_dense_artifact)
    results = [session.generate(p, max_new_tokens=6, temperature=0) for p in single]
    assert [choice.text for choice in answer.choices] == [result.text for result in results]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(result.usage.prompt_tokens for result in results)
    chunks = create(
        model="bundled:tiny-dense", prompt=prompt, max_tokens=6, temperature=0, stream=True
    )
    texts = [""] * len(single)
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [result.text for result in results]


def test_completion_echo(server: Server) -> None:
    body = {"prompt": "In the", "max_tokens": 4, "temperature": 0}
    plain = server.post("/v1/completions", body).json()["choices"][0]["text"]
    echo = server.post("/v1/completions", {**body, "echo": True}).json()["choices"][0]["text"]
    assert echo == "In the" + plain


def test_several_choices(server: Server) -> None:
    answer = ask(server, n=3, temperature=1.5, seed=7)
    again = ask(server, n=3, temperature=1.5, seed=7)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in again.choices]
    chunks = list(ask(server, n=3, temperature=1.5, seed=7, stream=True))
    assert [joined(chunks, index) for index in range(3)] == texts
    assert answer.usage.completion_tokens == 36


def test_seed_and_sampling_fields(server: Server) -> None:
    options = {"temperature": 1.3, "top_p": 0.9, "seed": 11, "presence_penalty": 0.5}
    extra = {"top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1, "cache_prompt": False}
    first = ask(server, **options, extra_body=extra)
    second = ask(server, **options, extra_body=extra)
    assert first.choices[0].message.content == second.choices[0].message.content
    assert second.usage.prompt_tokens_details.cached_tokens == 0


def test_penalties_and_bias(server: Server) -> None:
    long = {"max_tokens": 60, "extra_body": {"ignore_eos": True}}
    plain = ask(server, **long).choices[0].message.content
    varied = ask(server, frequency_penalty=2, presence_penalty=2, **long)
    words = [len(set(text.split())) for text in (plain, varied.choices[0].message.content)]
    assert words[1] > words[0]
    token = server.post("/tokenize", {"content": " Pharaoh"}).json()["tokens"][0]
    biased = ask(server, logit_bias={str(token): 100}, max_tokens=3)
    piece = server.post("/detokenize", {"tokens": [token]}).json()["content"]
    assert biased.choices[0].message.content == piece * 3


def test_logprobs(server: Server) -> None:
    answer = ask(server, logprobs=True, top_logprobs=3, max_tokens=5)
    content = answer.choices[0].logprobs.content
    assert len(content) == 5
    assert "".join(entry.token for entry in content) == answer.choices[0].message.content
    for entry in content:
        assert bytes(entry.bytes).decode() == entry.token
        assert entry.top_logprobs[0].token == entry.token  # greedy
        assert entry.top_logprobs[0].logprob == entry.logprob
        assert math.fsum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1
    chunks = list(ask(server, logprobs=True, top_logprobs=3, max_tokens=5, stream=True))
    streamed = [e for c in chunks if (lp := c.choices[0].logprobs) for e in lp.content or []]
    # The prompt is held by now, and its last token a decode step, which sums in another order.
    assert [entry.token for entry in streamed] == [entry.token for entry in content]
    for again, entry in zip(streamed, content, strict=True):
        assert again.logprob == pytest.approx(entry.logprob, abs=1e-5)
        assert [top.token for top in again.top_logprobs] == [t.token for t in entry.top_logprobs]
    old = server.client.completions.create(
        model="bundled:tiny-dense", prompt="In the", max_tokens=4, temperature=0, logprobs=2
    )
    logprobs = old.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == old.choices[0].text
    assert [len(top) for top in logprobs.top_logprobs or []] == [2] * 4
    assert (logprobs.text_offset or [])[:1] == [0]


def test_stop(server: Server) -> None:
    text = ask(server, max_tokens=40).choices[0].message.content
    cut = text[10:14]  # across tokens
    for options in ({}, {"stream": True}):
        answer = ask(server, max_tokens=40, stop=["not there", cut], **options)
        if options:
            chunks = list(answer)
            content, reason = joined(chunks), chunks[-1].choices[0].finish_reason
        else:
            content, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert content == text[: text.index(cut)]
        assert reason == "stop"


def test_follow_up_is_cached(server: Server) -> None:
    extra = {"session_id": "follow-up"}
    long = [{"role": "user", "content": "And it came to pass " * 20}]
    first = ask(server, messages=long, extra_body=extra)
    more = [*long, {"role": "assistant", "content": first.choices[0].message.content}]
    more.append({"role": "user", "content": "And then?"})
    second = ask(server, messages=more, extra_body=extra)
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached >= first.usage.prompt_tokens // 32 * 32
    assert second.to_dict()["timings"]["prompt_n"] == second.usage.prompt_tokens - cached
    alone = ask(server, messages=more, extra_body={"cache_prompt": False})
    assert alone.choices[0].message.content == second.choices[0].message.content


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Moses", "Aaron"]},
        "age": {"type": "integer", "minimum": 10, "maximum": 99},
        "brothers": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "brothers"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_json_schema(server: Server, temperature: float) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    answer = ask(
        server, response_format=form, max_tokens=200, temperature=temperature, seed=1
    ).choices[0]
    assert answer.finish_reason == "stop"
    person = json.loads(answer.message.content)
    assert list(person) == ["name", "age", "brothers"]
    assert 10 <= person["age"] <= 99


def test_json_object(server: Server) -> None:
    form = {"type": "json_object"}
    # The bundled model knows no JSON: a stop keeps what would be a long object short.
    answer = ask(server, response_format=form, max_tokens=30, logit_bias={"0": -100})
    assert answer.choices[0].message.content.startswith("{")


@pytest.mark.parametrize(
    "grammar",
    [
        {"syntax": "regex", "definition": "(yes|no), my lord"},
        {"syntax": "lark", "definition": 'start: ("yes" | "no") ", my lord"'},
    ],
)
def test_grammar(server: Server, grammar: dict[str, str]) -> None:
    for n in (1, 2):
        answer = ask(server, n=n, extra_body={"grammar": grammar})
        for choice in answer.choices:
            assert choice.message.content in ("yes, my lord", "no, my lord")
            assert choice.finish_reason == "stop"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_forced_tool(tool_server: Server, choice: Any) -> None:
    options = {"model": "tiny", "tools": [WEATHER], "tool_choice": choice, "max_tokens": 200}
    options["parallel_tool_calls"] = False
    answer = ask(tool_server, **options).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    (call,) = answer.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "get_weather"
    assert arguments["city"] in ("Rome", "Oslo")
    chunks = list(ask(tool_server, **options, stream=True))
    (delta,) = [t for c in chunks for t in c.choices[0].delta.tool_calls or []]
    assert json.loads(delta.function.arguments) == arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    # The conversation goes on with the result.
    more = [
        *QUESTION,
        answer.message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    done = ask(tool_server, model="tiny", tools=[WEATHER], messages=more)
    assert done.choices[0].finish_reason in ("length", "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_forced_tool_that_is_cut(tool_server: Server, stream: bool) -> None:
    """The same as OpenAI: a call with arguments as far as they go; never markup in the content."""
    for limit in (3, 12, 24):
        answer = ask(
            tool_server, model="tiny", tools=[WEATHER], tool_choice="required", max_tokens=limit,
            parallel_tool_calls=False, stream=stream,
        )  # fmt: skip
        if stream:
            chunks = list(answer)
            content, reason = joined(chunks), chunks[-1].choices[0].finish_reason
            calls = [call for c in chunks for call in c.choices[0].delta.tool_calls or []]
        else:
            content, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
            calls = answer.choices[0].message.tool_calls
        assert (content or "", reason) == ("", "length")
        (call,) = calls
        assert call.function.name == "get_weather"
        with pytest.raises(ValueError):
            json.loads(call.function.arguments)


def test_tools_that_are_not_called(tool_server: Server) -> None:
    for options in ({"tool_choice": "none"}, {}):
        answer = ask(tool_server, model="tiny", tools=[WEATHER], **options)
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].message.content


def test_client_errors(server: Server, tool_server: Server) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        server.client.models.retrieve("gpt-4")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        ask(server, messages=[{"role": "user", "content": "word " * 3000}])
    assert long.value.code == "context_length_exceeded"
    assert long.value.param == "messages"
    with pytest.raises(openai.AuthenticationError) as key:
        openai.OpenAI(base_url=f"{tool_server.url}/v1", api_key="guess").models.list()
    assert key.value.code == "invalid_api_key"
