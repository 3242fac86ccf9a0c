"""Tool calls of each format: read back, however the text is cut, and well formed by a grammar."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.server.conftest import HERMES

from edgec.runtime.chat import ChatTemplate
from edgec.runtime.server.grammar import GrammarCompiler
from edgec.runtime.server.options import ServerOptions
from edgec.runtime.server.schemas import FunctionDefinition
from edgec.runtime.server.service import Service
from edgec.runtime.server.tool_grammar import tool_grammar
from edgec.runtime.server.tools import FORMATS, ToolCall, ToolParser, detect_format
from edgec.runtime.tokenizer import Tokenizer

FUNCTIONS = {
    "get_weather": FunctionDefinition(
        name="get_weather",
        parameters={
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    ),
    "now": FunctionDefinition(name="now"),
}
ROME = ("get_weather", {"city": "Rome", "days": 3})
NOW: tuple[str, dict[str, Any]] = ("now", {})

# Text of a model, the content in it, and the calls.
ROME_JSON = '{"name": "get_weather", "arguments": {"city": "Rome", "days": 3}}'
NOW_JSON = '{"name": "now", "arguments": {}}'
HERMES_ROME = f"<tool_call>\n{ROME_JSON}\n</tool_call>"
HERMES_NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
XML_ROME = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
)
MISTRAL_ROME = '[TOOL_CALLS]get_weather[CALL_ID]abc[ARGS]{"city": "Rome", "days": 3}'
CASES: list[tuple[str, str, str, list[Any]]] = [
    ("hermes", "Just text, 1 < 2.", "Just text, 1 < 2.", []),
    ("hermes", HERMES_ROME, "", [ROME]),
    ("hermes", f"Let me see.\n{HERMES_ROME}\n{HERMES_NOW}\n", "Let me see.", [ROME, NOW]),
    ("hermes", "<tool_call>{nonsense}</tool_call>", "<tool_call>{nonsense}</tool_call>", []),
    ("hermes", HERMES_NOW.replace("now", "rm"), HERMES_NOW.replace("now", "rm"), []),
    ("hermes", HERMES_NOW.removesuffix("</tool_call>"), "", [NOW]),  # cut at the longest answer
    ("hermes", "a <tool_", "a <tool_", []),
    ("xml", f"Well.\n{XML_ROME}", "Well.", [ROME]),
    ("xml", "<tool_call>\n<function=now>\n</function>\n</tool_call>", "", [NOW]),
    ("mistral", '[TOOL_CALLS] [{"name": "now", "arguments": {}}]', "", [NOW]),
    ("mistral", f"[TOOL_CALLS][{NOW_JSON}, {ROME_JSON}]", "", [NOW, ROME]),
    ("mistral_args", "[TOOL_CALLS]now[ARGS]{}", "", [NOW]),
    ("mistral_args", f"Hm.{MISTRAL_ROME}[TOOL_CALLS]now[ARGS]{{}}", "Hm.", [ROME, NOW]),
    ("llama3", '{"name": "get_weather", "parameters": {"city": "Rome", "days": 3}}', "", [ROME]),
    ("llama3", '<|python_tag|>{"name": "now", "parameters": {}}', "", [NOW]),
    ("llama3", "; ".join(['{"name": "now", "parameters": {}}'] * 2), "", [NOW, NOW]),
    ("llama3", "It is {late}.", "It is {late}.", []),
    ("llama3", '{"answer": 42}', '{"answer": 42}', []),
]  # fmt: skip


def parse(form: str, pieces: Iterable[str]) -> tuple[str, list[Any]]:
    parser = ToolParser(FORMATS[form], FUNCTIONS)
    parts = [part for piece in pieces for part in parser.feed(piece)]
    parts += parser.finish()
    content = "".join(part for part in parts if isinstance(part, str))
    calls = [part for part in parts if isinstance(part, ToolCall)]
    assert len({call.id for call in calls}) == len(calls)
    return content, [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize(("form", "text", "content", "calls"), CASES)
def test_parser(form: str, text: str, content: str, calls: list[Any]) -> None:
    assert parse(form, [text]) == (content, calls)
    assert parse(form, text) == (content, calls)  # character by character
    chance = random.Random(0)
    for _ in range(20):
        cuts = sorted(chance.sample(range(len(text)), min(4, len(text))))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert parse(form, pieces) == (content, calls)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ messages }}", None),
        ("{{ tools }} in a way of its own", None),
        ("{% if tools %}<tool_call>{{ x | tojson }}</tool_call>{% endif %}", "hermes"),
        ("{% if tools %}<tool_call><function={{ name }}><parameter=", "xml"),
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS][", "mistral"),
        ("{% if tools %}[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}", "mistral_args"),
        ("{% if tools %}<|python_tag|>", "llama3"),
        ('{{ tools }} Respond {"name": function name, "parameters": dictionary', "llama3"),
        ("a template about <tool_call> that has none", None),
    ],
)
def test_detection(template: str, form: str | None) -> None:
    assert detect_format(template) == form


def test_detection_looks_at_the_template_for_tools() -> None:
    template = ChatTemplate({"default": "{{ messages }}", "tool_use": HERMES}, {})
    engine: Any = SimpleNamespace(model=SimpleNamespace(chat_template=template))
    served = Service(ServerOptions(alias="m")).serve(engine)
    assert (served.tool_format, served.has_tools) == ("hermes", True)


@pytest.fixture(scope="module")
def compiler(repository: Path) -> GrammarCompiler:
    tokenizer = Tokenizer(repository / "models/bundled/tiny-dense")
    return GrammarCompiler(tokenizer, 2048, (2045, 2047))


def allows(compiler: GrammarCompiler, lark: str, text: str) -> tuple[bool, bool]:
    """Whether a text can begin what a grammar allows, and whether it may end there."""
    tokenizer = compiler._ids
    grammar = compiler.from_tools(lark)
    ids = tokenizer.encode(text, add_special_tokens=False)
    for at in range(len(ids) + 1):
        logits = np.zeros(2048, np.float32)
        grammar.mask(ids[:at], logits)
        if at < len(ids) and logits[ids[at]] == -np.inf:
            return False, False
    return True, bool(logits[2047] == 0)


# What is read but never asked for has no place in a grammar.
ASKED_FOR = [
    case
    for case in CASES
    if not any(mark in case[1] for mark in ("[CALL_ID]", "python_tag", "; {", "] ["))
]


@pytest.mark.parametrize(("form", "text", "content", "calls"), ASKED_FOR)
def test_grammar_allows_good_calls_only(
    compiler: GrammarCompiler, form: str, text: str, content: str, calls: list[Any]
) -> None:
    functions = list(FUNCTIONS.values())

    def lark(forced: bool) -> str:
        return tool_grammar(form, functions, compiler.marker, forced=forced, parallel=True)

    whole = text.rstrip("\n")
    closed = text.count("<tool_call>") == text.count("</tool_call>")
    if calls and not content:
        for forced in (True, False):
            assert allows(compiler, lark(forced), whole) == (True, closed)
    else:  # text that is no call: not when a call is forced; else free, unless it begins one
        assert allows(compiler, lark(True), whole) == (False, False)
        free = not whole.startswith(("<tool_call>", "{")) or bool(calls)
        assert allows(compiler, lark(False), whole)[0] == free


@pytest.mark.parametrize("form", FORMATS)
def test_grammar_names_one_function(compiler: GrammarCompiler, form: str) -> None:
    only = [FUNCTIONS["get_weather"]]
    lark = tool_grammar(form, only, compiler.marker, forced=True, parallel=False)
    for case, text, content, calls in CASES:
        if case == form and calls and not content and "CALL_ID" not in text:
            allowed = allows(compiler, lark, text.strip())[0]
            assert allowed == (calls == [ROME])
