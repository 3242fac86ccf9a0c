"""The policy on fields: what changes the answer is honoured or refused, the rest passed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Server

from edgec.artifact import Artifact
from edgec.runtime.server import schemas
from edgec.runtime.server.fields import FIELDS, HEADER, Body, Notices

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
BODIES = [
    each for each in vars(schemas).values()
    if isinstance(each, type) and issubclass(each, Body) and each.places
]  # fmt: skip


def chat(server: Server, **fields: Any) -> Any:
    return server.post(CHAT, {"messages": HELLO, "max_tokens": 4, "temperature": 0, **fields})


def test_documented_table_is_the_table(repository: Path) -> None:
    text = (repository / "docs/server.md").read_text("utf-8")
    table = text.partition("| in | fields | | |\n|---|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [
        f"| {row.place} | {' '.join(f'`{n}`' for n in row.names)} | {row.fate} | {row.note} |"
        for row in FIELDS
    ]
    assert table.splitlines() == rows


def test_every_part_honours_what_the_table_says() -> None:
    for kind in BODIES:
        names = {field.alias or name for name, field in kind.model_fields.items()}
        rows = [row for row in FIELDS if row.place in kind.places and row.fate == "honoured"]
        assert names == {name for row in rows for name in row.names}, kind
    assert {row.place for row in FIELDS} == {p for kind in BODIES for p in kind.places}


def test_no_field_has_two_fates() -> None:
    pairs = [(row.place, name) for row in FIELDS for name in row.names]
    assert len(pairs) == len(set(pairs))


# By OpenAI's specification and the documents of llama.cpp and vLLM none of these changes the text.
HARMLESS: dict[str, Any] = {
    "metadata": {"team": "a"},
    "store": True,
    "service_tier": "flex",
    "safety_identifier": "u1",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "prediction": {"type": "content", "content": "x"},
    "id_slot": 3,
    "verbosity": "low",
    "reasoning_effort": "low",
    "reasoning": {"effort": "low"},
    "timings_per_token": True,
    "a_field_of_next_year": [1],
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_fields_are_passed_over_and_named(server: Server, name: str) -> None:
    plain = chat(server)
    assert HEADER not in plain.headers
    for value in (HARMLESS[name], None):
        answer = chat(server, **{name: value})
        assert answer.status_code == 200
        assert answer.json()["choices"] == plain.json()["choices"]
        if value is not None or name not in ("verbosity", "reasoning_effort"):
            assert answer.headers[HEADER] == name
    if name in HARMLESS:
        said = [line for line in server.errors if f"requests have {name}," in line]
        assert len(said) == 1


def test_parts_of_a_request(server: Server) -> None:
    parts = [{"type": "input_text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]
    message = {"role": "user", "content": parts, "mood": 1, "annotations": []}
    answer = chat(server, messages=[message], stream_options={"include_obfuscation": True})
    assert answer.json()["choices"] == chat(server).json()["choices"]
    assert set(answer.headers[HEADER].split(", ")) == {
        "messages.mood", "messages.annotations", "messages.content.cache_control",
        "stream_options.include_obfuscation",
    }  # fmt: skip
    streamed = chat(server, stream=True, metadata={})
    assert streamed.headers[HEADER] == "metadata"
    text = server.post(TEXT, {"prompt": "In", "max_tokens": 1, "metadata": {}})
    assert text.headers[HEADER] == "metadata"
    tokens = server.post("/tokenize", {"content": "In", "metadata": {}})
    assert tokens.headers[HEADER] == "metadata"


# Values of fields that ask for nothing: clients with fixed bodies send them.
NEUTRAL: list[dict[str, Any]] = [
    {"tools": []},
    {"tools": [], "tool_choice": "auto", "parallel_tool_calls": False},
    {"tool_choice": "none"},
    {"parallel_tool_calls": True},
    {"stream_options": {"include_usage": True}},
    {"logprobs": False, "top_logprobs": 0},
    {"top_logprobs": 0},
    {"typical_p": 1.0, "mirostat": 0, "use_beam_search": False, "functions": []},
    {"function_call": "auto"},
    {"web_search_options": None, "suffix": None, "response_format": None, "stop": None},
    {"stop": []},
    {"max_completion_tokens": 9},
    {"n_predict": -1},
    {"modalities": ["text"]},
    {"repeat_penalty": 1.0},
    {"stop_token_ids": []},
]


@pytest.mark.parametrize("fields", NEUTRAL)
def test_fields_that_ask_for_nothing(server: Server, fields: dict[str, Any]) -> None:
    answer = chat(server, **fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"] == chat(server).json()["choices"]


def test_completions_neutral_fields(server: Server) -> None:
    body = {"prompt": "In the", "max_tokens": 4, "temperature": 0}
    plain = server.post(TEXT, body).json()["choices"]
    for fields in (
        {"suffix": ""},
        {"best_of": 1},
        {"suffix": None, "best_of": None, "logprobs": None},
    ):
        assert server.post(TEXT, {**body, **fields}).json()["choices"] == plain
    for fields in ({"suffix": "end"}, {"best_of": 4}, {"max_tokens": 0}):
        assert server.post(TEXT, {**body, **fields}).status_code == 400


def test_any_model_name(server: Server) -> None:
    for name in ("gpt-3.5-turbo", "", "default"):
        answer = chat(server, model=name)
        assert answer.json()["model"] == "bundled:tiny-dense"
        assert answer.headers[HEADER] == "model"


def test_names_for_a_header_and_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    notices = Notices(strict=False)
    assert notices.header(["a\r\nx-evil: 1", "b\x1b[31m", "é" * 200]) == (
        f"a??x-evil:?1, b??31m, {'?' * 100}"
    )
    many = notices.header(f"f{number}" for number in range(5000))
    assert many.endswith(", and 4980 more")
    assert len(many) < 200
    assert len(capsys.readouterr().err.splitlines()) == 1000


def test_limits_of_an_answer(server: Server) -> None:
    long = {"ignore_eos": True}

    def tokens(**fields: Any) -> int:
        answer = server.post(CHAT, {"messages": HELLO, **long, **fields}).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        count: int = answer["usage"]["completion_tokens"]
        return count

    prompt = chat(server).json()["usage"]["prompt_tokens"]
    room = 1024 - prompt
    # llama.cpp: to the end of the context, and -1 means the same; too much is cut down to it.
    assert tokens() == tokens(max_tokens=-1) == tokens(max_completion_tokens=-1) == room
    assert tokens(max_tokens=8192) == tokens(max_tokens=-1, max_completion_tokens=100_000) == room
    assert tokens(max_tokens=7, max_completion_tokens=5) == tokens(n_predict=5) == 5
    assert tokens(max_tokens=-1, max_completion_tokens=5) == 5
    body = {"prompt": [5] * 1020, **long}
    answer = server.post(TEXT, body).json()["usage"]
    assert answer["completion_tokens"] == 4
    answer = server.post(TEXT, {"prompt": [5], **long}).json()["usage"]
    assert answer["completion_tokens"] == 16  # OpenAI's


def test_any_number_of_stops(server: Server) -> None:
    text = chat(server, max_tokens=40).json()["choices"][0]["message"]["content"]
    for number in (5, 100):
        stops = [f"not there {each}" for each in range(number - 1)] + [text[10:14]]
        answer = chat(server, max_tokens=40, stop=stops).json()["choices"][0]
        assert answer["message"]["content"] == text[: text.index(text[10:14])]
    for wrong in (["a", 5], 5, [[]]):
        error = chat(server, stop=wrong).json()["error"]
        assert error["message"] == "stop: must be text or a list of texts"


def test_stop_tokens_and_least_tokens(server: Server) -> None:
    ask = {"prompt": "In the", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    text = server.post(TEXT, ask).json()["choices"][0]["text"]
    ids = server.post("/tokenize", {"content": "In the" + text}).json()["tokens"]
    prompt = len(server.post("/tokenize", {"content": "In the"}).json()["tokens"])
    new = ids[prompt:]
    answer = server.post(TEXT, {**ask, "stop_token_ids": [new[3]]}).json()
    assert answer["usage"]["completion_tokens"] == new.index(new[3]) + 1
    assert answer["choices"][0]["finish_reason"] == "stop"
    # As in vLLM: until there are so many, nothing ends the text.
    more = {**ask, "stop_token_ids": [new[3]], "min_tokens": 8}
    assert server.post(TEXT, more).json()["usage"]["completion_tokens"] >= 8


def test_names_of_llama_cpp_and_vllm(server: Server) -> None:
    def text(**fields: Any) -> str:
        answer = chat(server, max_tokens=30, **fields)
        assert answer.status_code == 200, answer.text
        content: str = answer.json()["choices"][0]["message"]["content"]
        return content

    long = {"ignore_eos": True}
    assert text(repeat_penalty=3.0, **long) == text(repetition_penalty=3.0, **long) != text(**long)
    seeded = {"temperature": 1.3, "seed": 5}
    assert text(**seeded, top_k=-1) == text(**seeded, top_k=0) != text(**seeded, top_k=2)
    schema = {"enum": [["yes"], ["no"]]}
    for fields in (
        {"guided_json": schema},
        {"json_schema": schema},
        {"response_format": {"type": "json_object", "schema": schema}},
        {"response_format": {"type": "json_schema", "schema": schema}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
    ):
        assert json.loads(text(**fields)) in (["yes"], ["no"])
    assert text(guided_choice=["yes, my lord", "no"]) in ("yes, my lord", "no")
    assert text(guided_regex="(yes|no), my lord") in ("yes, my lord", "no, my lord")
    both = chat(server, guided_regex="a", response_format={"type": "json_object"})
    assert both.status_code == 400


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_batch_of_an_evaluation(server: Server, path: str) -> None:
    """lm-eval sends batches of 32 prompts."""
    if path == TEXT:
        answer = server.post(TEXT, {"prompt": ["In the"] * 32, "max_tokens": 1, "logprobs": 20})
    else:
        answer = chat(server, n=32, max_tokens=1)
    assert len(answer.json()["choices"]) == 32
    too_many = server.post(TEXT, {"prompt": ["In the"] * 33, "n": 2})
    assert too_many.status_code == 400


def test_strict(start_server: Callable[..., Server], tiny_dense_artifact: Artifact) -> None:
    server = start_server(tiny_dense_artifact, "--strict")
    assert chat(server, model="bundled:tiny-dense", user="u", top_k=-1, tools=[]).status_code == 200
    for fields, param in (
        ({"metadata": {}}, "metadata"),
        ({"bogus": 1}, "bogus"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"messages": [{**HELLO[0], "annotations": []}]}, "messages.annotations"),
    ):
        error = chat(server, **fields)
        assert error.status_code == 400
        assert error.json()["error"]["param"] == param
        assert error.json()["error"]["code"] == "unknown_parameter"
    assert chat(server, model="gpt-4").status_code == 404
    assert server.stop() == 0


def test_body_without_a_type(server: Server) -> None:
    body = json.dumps({"messages": HELLO, "max_tokens": 1})

    def post(**headers: str) -> int:
        with server.http as http:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            return int(http.post(CHAT, content=body, headers=given).status_code)

    assert post() == 200  # as llama.cpp
    assert post(content_type="application/json; charset=utf-8") == 200
    # What a page of another site can send unasked: a blob without a type, text, forms.
    assert post(origin="http://evil.example") != 200
    assert post(origin="null") != 200
    assert post(sec_fetch_site="cross-site") != 200
    assert post(content_type="text/plain") == 400
    assert post(content_type="application/x-www-form-urlencoded") == 400
