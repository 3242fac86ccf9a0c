"""Chat templates against transformers' renderer."""

from __future__ import annotations

import dataclasses
import json
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from edgec.errors import InputError
from edgec.runtime import Session
from edgec.runtime.chat import ChatTemplate, TemplateFailed
from edgec.runtime.tokenizer import Tokenizer
from edgec.template import compile_template

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": "Grüß dich"},
    {"role": "assistant", "content": "Hi", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]},
]
TEMPLATES = {
    "blocks are trimmed": """
{% for m in messages %}
    {% if m.role == 'user' %}
U: {{ m['content'] }}
    {% else %}
{{ m.role | upper }}: {{ m.content }}
    {% endif %}
{% endfor %}
{{ bos_token }}{% if add_generation_prompt %}A:{% endif %}""",
    "tojson": "{% for m in messages %}{{ m | tojson }}{{ m | tojson(indent=2) }}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}"
    "{{ m.content }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}"
    "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "variables": "{{ enable_thinking }}{{ tools[0].function.name }}",
    "date": "{{ strftime_now('%Y') | length }}",
}


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_renders_as_transformers_does(source: str, add_generation_prompt: bool) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    variables: dict[str, Any] = {"enable_thinking": False, "tools": tools}
    rendered: Any = render_jinja_template(
        [MESSAGES],
        chat_template=source,
        add_generation_prompt=add_generation_prompt,
        bos_token="<s>",
        **variables,
    )
    ours = ChatTemplate(source, {"bos_token": "<s>"}).render(
        MESSAGES, add_generation_prompt=add_generation_prompt, **variables
    )
    assert ours == rendered[0][0]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ messages[0].content + 1 }}", "concatenate"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe|undefined"),
    ],
)
def test_a_template_that_fails_is_an_input_error(source: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ChatTemplate(source, {}).render(MESSAGES)


def test_a_template_that_does_not_parse() -> None:
    with pytest.raises(InputError, match="does not parse"):
        ChatTemplate("{% for %}", {}).render(MESSAGES)


@pytest.mark.parametrize("message", [{"content": "no role"}, {"role": 3}])
def test_messages_need_a_role(message: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="message 1"):
        ChatTemplate("", {}).render([MESSAGES[0], message])


def test_messages_are_plain_json() -> None:
    with pytest.raises(InputError, match="plain JSON"):
        ChatTemplate("", {}).render([{"role": "user", "content": object()}])


def folder_with(folder: Path, source: Path, **config: Any) -> Path:
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_where_templates_come_from(tmp_path: Path, tokenizer_folder: Path) -> None:
    def load(**config: Any) -> str | None:
        folder = folder_with(tmp_path, tokenizer_folder, **config)
        template = ChatTemplate.load(folder, Tokenizer(folder))
        return None if template is None else template.render(MESSAGES)

    assert load() is None
    assert load(chat_template="config") == "config"
    several = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
    assert load(chat_template=several) == "yes"
    (tmp_path / "chat_template.jinja").write_text("file {{ eos_token }}")
    assert load(chat_template="config", eos_token="</s>") == "file </s>"


@pytest.mark.parametrize("huge", ["'x' * 99999999", "'x' | center(99999999)", "'%99999999d' % 1"])
def test_parsing_computes_nothing(huge: str) -> None:
    tracemalloc.start()
    try:
        compile_template(f"{{% if false %}}{{% set y = {huge} %}}{{{{ {huge} }}}}{{% endif %}}")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


MISCHIEF = {
    "a loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a long range": "{{ range(10**9) | length }}",
    "division": "{{ 1 // 0 }}",
    "a recursive macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "multiplied text": "{{ 'x' * 10**10 }}",
    "wide text": "{{ 'x'.ljust(2 * 10**9) | length }}",
    "a long answer": "{{ 'x' * 10**8 }}",
    "an attribute": "{{ 5 | dictsort }}",
    "lipsum": "{{ lipsum(n=10**7) }}",
    "slices": "{{ [1] | slice(10**9) | list }}",
    "a long date": "{{ strftime_now('%Y' * 10**8) }}",
    "parentheses": "{{" + "(" * 90 + "1" + ")" * 90 + "}}",
    "many ifs": "{% if 1 %}" * 500 + "{% endif %}" * 500,
    "many loops": "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
    "a break": "{% break %}",
}


@pytest.mark.parametrize("name", MISCHIEF)
def test_templates_have_limits(make_session: Callable[..., Session], name: str) -> None:
    """The same as in the server: an error in bounded time, and the session is as it was."""
    session = make_session("ok")
    template = ChatTemplate(MISCHIEF[name], {}, seconds=1)
    model = dataclasses.replace(session.model, chat_template=template)
    session = Session(model)
    began = time.monotonic()
    with pytest.raises(InputError, match="chat template"):
        session.generate(MESSAGES)
    assert time.monotonic() - began < 15
    assert session.encode("ab") == [97, 98]


def test_a_template_that_failed_is_tried_again() -> None:
    template = ChatTemplate("{{ 'x' * (messages[0].content | int) }}", {})
    for size, text in (("3", "xxx"), ("99999999999", None), ("2", "xx")):
        messages = [{"role": "user", "content": size}]
        if text is None:
            with pytest.raises(TemplateFailed, match="MemoryError"):
                template.render(messages)
        else:
            assert template.render(messages) == text


def test_the_process_ends_with_the_template() -> None:
    template = ChatTemplate("{{ messages }}", {})
    template.render(MESSAGES)
    channel = template._process._socket
    assert channel is not None
    template.close()
    assert channel.fileno() == -1
    assert template.render(MESSAGES)  # another one


def test_threads_share_a_template() -> None:
    template = ChatTemplate("{{ messages[0].content }}", {})

    def ask(number: int) -> str:
        return template.render([{"role": "user", "content": str(number)}])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(60))) == [str(number) for number in range(60)]


BROKEN: dict[str, tuple[bytes | None, Any]] = {
    "does not parse": (b"{% for", None),
    "is no text": (b"\xff\xfe{{", None),
    "is a number": (None, 5),
    "is a list of numbers": (None, [1]),
    "has no names": (None, [{"template": "x"}]),
    "has no default": (None, [{"name": "rag", "template": "x"}]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_text_needs_no_template(name: str, tmp_path: Path, tokenizer_folder: Path) -> None:
    """A template is looked at when a chat is asked for."""
    file, config = BROKEN[name]
    folder = folder_with(tmp_path, tokenizer_folder, chat_template=config)
    if file is not None:
        (folder / "chat_template.jinja").write_bytes(file)
    tokenizer = Tokenizer(folder)
    template = ChatTemplate.load(folder, tokenizer)
    assert template is not None and tokenizer.encode("a") == [97]
    assert isinstance(template.source_with_tools, str)
    with pytest.raises(InputError, match=r"chat.template"):
        template.render(MESSAGES)


@pytest.mark.parametrize(
    "variables",
    [
        {"messages": []},
        {"tools": [object()]},
        {"chat_template": "none such"},
        {"chat_template": ["default"]},
        {"continue_final_message": 3},
        {"documents": ["text"]},
        {"documents": 4},
        {3: 4},
    ],
)
def test_variables_that_cannot_be(make_session: Callable[..., Session], variables: Any) -> None:
    with pytest.raises(InputError):
        make_session("ok").generate(MESSAGES, chat_template_kwargs=variables)


def test_messages_that_are_too_deep() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="plain JSON"):
        ChatTemplate("", {}).render([{"role": "user", "content": deep}])
