"""Chat templates against transformers' renderer."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from edgec.errors import InputError
from edgec.runtime.chat import ChatTemplate
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
