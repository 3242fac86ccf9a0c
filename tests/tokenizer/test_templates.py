"""Renderings are those of transformers' `apply_chat_template`, or both refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tokenizer.folders import KINDS, write
from tests.tokenizer.templates import TEMPLATES
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from edgec.errors import InputError
from edgec.models.sources.tokenizer import tokenizer_files
from edgec.runtime.chat import ChatTemplate
from edgec.runtime.tokenizer import Tokenizer

NAMES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "image_token": "<img>",
    "extra_special_tokens": {"video": "<video>", "pad_token": "<pad>"},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Where “it” rains & <why>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": ["integer", "null"]},
                "at": {"type": "array", "items": {"type": "number"}},
            },
        },
    },
}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
CHATS: dict[str, list[dict[str, Any]]] = {
    "plain": [{"role": "user", "content": " Grüß <dich>\n"}],
    "system": [
        {"role": "system", "content": "Be 'kind'."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>hm</think>\n\nYes"},
        {"role": "user", "content": "Go on"},
    ],
    "call": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "so"},
        {"role": "tool", "content": "rain", "tool_call_id": "abcdefghi"},
    ],
    "nulls": [
        {"role": "user", "content": "a", "name": None, "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": None, "refusal": None},
        {"role": "user", "content": ""},
    ],
    "parts": [
        {"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "b", "detail": None}]},
    ],
    "objects": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "content": {"content": 3.5, "ok": True}},
    ],
    "thinking": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y", "thinking": "first", "reasoning": "second"},
        {"role": "assistant", "content": "y", "reasoning_content": "third", "thinking": None},
    ],
    "in the system message": [{"role": "system", "content": "s", "tools": "[]"}],
}
VARIABLES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "tools": {"tools": [TOOL]},
    "no tools": {"tools": []},
    "documents": {"documents": [{"title": "T", "text": "x", "doc_id": 1}]},
    "switches": {"enable_thinking": False, "thinking": True, "controls": {"length": "long"}},
    "special tokens": {"bos_token": "<other>", "reasoning_effort": "high", "add": (1, 2)},
}


def reference(source: Any) -> PreTrainedTokenizerFast:
    names = {"chat_template": source, **NAMES}
    return PreTrainedTokenizerFast(tokenizer_object=KINDS["byte level"](), **names)


def theirs(tokenizer: Any, messages: Any, **options: Any) -> str | None:
    """The rendering, or None where transformers refuses."""
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception:
        return None
    return text


def ours(template: ChatTemplate, messages: Any, **options: Any) -> str | None:
    try:
        return template.render(messages, **options)
    except InputError:
        return None


@pytest.mark.parametrize("name", TEMPLATES)
def test_corpus(name: str) -> None:
    tokenizer = reference(TEMPLATES[name])
    template = ChatTemplate(TEMPLATES[name], tokenizer.special_tokens_map)
    rendered = 0
    for chat, messages in CHATS.items():
        for variables, options in VARIABLES.items():
            for prompt in (True, False):
                every = {**options, "add_generation_prompt": prompt}
                expected = theirs(tokenizer, messages, **every)
                assert ours(template, messages, **every) == expected, (chat, variables, prompt)
                rendered += expected is not None
    assert rendered > 4  # a comparison of refusals alone would say nothing


@pytest.mark.parametrize("field", [True, "content", "reasoning_content", "thinking", "nothing"])
@pytest.mark.parametrize("name", ["qwen", "gemma", "phi", "gpt-oss", "command r, documents"])
def test_the_last_message_goes_on(name: str, field: bool | str) -> None:
    tokenizer = reference(TEMPLATES[name])
    template = ChatTemplate(TEMPLATES[name], tokenizer.special_tokens_map)
    for last in (
        {"role": "assistant", "content": "Sure, "},
        {"role": "assistant", "content": [{"type": "text", "text": "So"}, {"type": "image"}]},
        {"role": "assistant", "content": "", "reasoning": "I think"},
        {"role": "assistant", "content": None},
    ):
        messages = [{"role": "user", "content": "Hi"}, last]
        options = {"continue_final_message": field, "documents": []}
        expected = theirs(tokenizer, messages, **options)
        assert ours(template, messages, **options) == expected, last


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "other"])},
    optional={
        "content": st.text(max_size=9) | JSON,
        "tool_calls": st.none() | st.lists(st.just(CALL), max_size=2) | JSON,
        "reasoning": JSON,
        "reasoning_content": JSON,
        "thinking": JSON,
        "name": JSON,
    },
)


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[Any, ChatTemplate]]:
    made = {name: reference(source) for name, source in TEMPLATES.items()}
    return {
        name: (tokenizer, ChatTemplate(TEMPLATES[name], tokenizer.special_tokens_map))
        for name, tokenizer in made.items()
    }


@given(
    name=st.sampled_from(sorted(TEMPLATES)),
    messages=st.lists(MESSAGE, min_size=1, max_size=4),
    options=st.fixed_dictionaries(
        {"add_generation_prompt": st.booleans()},
        optional={"tools": st.none() | st.lists(st.just(TOOL), max_size=2), "documents": st.none()},
    ),
)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_any_messages(
    pairs: dict[str, tuple[Any, ChatTemplate]], name: str, messages: Any, options: Any
) -> None:
    tokenizer, template = pairs[name]
    assert ours(template, messages, **options) == theirs(tokenizer, messages, **options)


WHERE: dict[str, dict[str, Any]] = {
    "text": {"config": "one {{ tools is none }}"},
    "list": {
        "config": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    },
    "list without default": {"config": [{"name": "rag", "template": "r"}]},
    "list with tools alone": {"config": [{"name": "tool_use", "template": "t"}]},
    "object": {"config": {"default": "d", "rag": "r"}},
    "file": {"config": "no", "chat_template.jinja": "file\r\n{{ messages[0].role }}"},
    "files": {
        "config": "no",
        "chat_template.jinja": "file",
        "additional_chat_templates/tool_use.jinja": "tools",
        "additional_chat_templates/rag.jinja": "rag",
    },
    "additional files alone": {
        "config": "no",
        "additional_chat_templates/tool_use.jinja": "tools",
    },
    "nothing": {"config": None},
}


@pytest.mark.parametrize("where", WHERE)
def test_where_templates_come_from(where: str, tmp_path: Path) -> None:
    files = dict(WHERE[where])
    config = {**NAMES, "chat_template": files.pop("config")}
    folder = write(tmp_path / "m", KINDS["byte level"](), tokenizer_config=config)
    for name, source in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(source.encode())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    carried = tokenizer_files("m", folder, AutoConfig.from_pretrained(folder))
    for name, content in carried.items():
        (artifact / name).write_bytes(content)
    for place in (folder, artifact):
        template = ChatTemplate.load(place, Tokenizer(place))
        assert (template is None) is (tokenizer.chat_template is None)
        if template is None:
            continue
        named = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
        for options in (
            {}, {"tools": [TOOL]}, {"tools": []}, *({"chat_template": name} for name in named),
        ):  # fmt: skip
            messages = CHATS["plain"]
            assert ours(template, messages, **options) == theirs(tokenizer, messages, **options)


def test_the_older_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", KINDS["byte level"](), tokenizer_config=NAMES)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "old"}))
    files = tokenizer_files("m", folder, AutoConfig.from_pretrained(folder))
    assert files["chat_template.jinja"] == b"old"
    template = ChatTemplate.load(folder, Tokenizer(folder))
    assert template is not None and template.render(CHATS["plain"]) == "old"
