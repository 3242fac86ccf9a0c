"""Tool calls in text: marks within arguments, calls without arguments, missing tags, cut calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.runtime.server.schemas import FunctionDefinition
from edgec.runtime.server.tools import FORMATS, ToolCall, ToolParser

PARAMETERS = {
    "type": "object",
    "properties": {
        "s": {"type": "string"},
        "u": {"type": ["string", "null"]},
        "o": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "i": {"type": "integer"},
        "x": {"type": "number"},
        "b": {"type": "boolean"},
        "l": {"type": "array"},
        "d": {"$ref": "#/$defs/D"},
        "e": {"enum": [1, 2, 3]},
        "any": {},
    },
    "$defs": {"D": {"type": "object"}},
}
FUNCTIONS = {
    "f": FunctionDefinition(name="f", parameters=PARAMETERS),
    "g": FunctionDefinition(name="g"),
    "mcp/x:y": FunctionDefinition(name="mcp/x:y", parameters=PARAMETERS),
}
Calls = list[tuple[str, dict[str, Any]]]


def parse(form: str, pieces: Any, *, cut: bool = False, forced: bool = False) -> tuple[str, Any]:
    parser = ToolParser(FORMATS[form], FUNCTIONS, forced=forced)
    parts = [part for piece in pieces for part in parser.feed(piece)]
    parts += parser.finish(cut=cut)
    content = "".join(part for part in parts if isinstance(part, str))
    calls = [(part.name, part.arguments) for part in parts if isinstance(part, ToolCall)]
    return content, calls if cut else [(name, json.loads(text)) for name, text in calls]


def every_way(text: str) -> Iterator[list[str]]:
    yield [text]
    yield list(text)
    for at in range(1, len(text)):
        yield [text[:at], text[at:]]


def as_json(name: str, args: Any, key: str = "arguments") -> str:
    return json.dumps({"name": name, key: args}, ensure_ascii=False)


def written(form: str, calls: Calls) -> str:
    """Calls in the spelling of the models' own templates."""
    match form:
        case "hermes":
            return "\n".join(f"<tool_call>\n{as_json(*call)}\n</tool_call>" for call in calls)
        case "mistral":
            return "[TOOL_CALLS][" + ", ".join(as_json(*call) for call in calls) + "]"
        case "mistral_args":
            return "".join(
                f"[TOOL_CALLS]{name}[ARGS]{json.dumps(args, ensure_ascii=False)}"
                for name, args in calls
            )
        case "llama3":
            return "; ".join(as_json(*call, key="parameters") for call in calls)
    texts = []
    for name, args in calls:
        parts = [
            f"<parameter={key}>\n{value if isinstance(value, str) else json.dumps(value)}\n"
            "</parameter>\n"
            for key, value in args.items()
        ]
        texts.append(f"<tool_call>\n<function={name}>\n{''.join(parts)}</function>\n</tool_call>")
    return "\n".join(texts)


MARKS = [
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>",
    "</function>", "\n", '"', "\\", "{", "}", "[", "]", ";", ",", "é", "😀", "a", " ",
]  # fmt: skip
STRINGS = st.lists(st.sampled_from(MARKS), max_size=6).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | STRINGS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(STRINGS, inner, max_size=2),
    max_leaves=4,
)
JSON_ARGS = st.dictionaries(st.sampled_from(["s", "q", "</tool_call>"]), VALUES, max_size=3)
# Text of the `xml` format is written as it is: line ends at its ends are the format's own.
PLAIN = STRINGS.map(lambda text: text.strip("\n"))
XML_ARGS = st.fixed_dictionaries(
    {},
    optional={
        "s": PLAIN,
        "u": PLAIN.filter(lambda text: text.strip().lower() not in ("null", "none")) | st.none(),
        "i": st.integers(-(10**9), 10**9),
        "b": st.booleans(),
        "l": st.lists(VALUES, max_size=2),
        "d": st.dictionaries(STRINGS, VALUES, max_size=2),
    },
)


def random_calls(form: str, most: int) -> st.SearchStrategy[Calls]:
    # Without a schema every value of the `xml` format is text.
    names = st.sampled_from(["f", "mcp/x:y"] if form == "xml" else sorted(FUNCTIONS))
    args = XML_ARGS if form == "xml" else JSON_ARGS
    return st.lists(st.tuples(names, args), min_size=1, max_size=most)


@pytest.mark.parametrize("form", FORMATS)
def test_any_call_cut_anywhere(form: str) -> None:
    calls = random_calls(form, 2)

    @settings(max_examples=30, deadline=None, derandomize=True, database=None)
    @given(calls)
    def check(calls: Calls) -> None:
        text = written(form, calls)
        for pieces in every_way(text):
            assert parse(form, pieces) == ("", calls)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_any_call_cut_anywhere_long(form: str) -> None:
    calls = random_calls(form, 4)

    @settings(max_examples=2000, deadline=None, database=None)
    @given(calls, st.text(st.sampled_from("ab <>[]{}\n"), max_size=8))
    def check(calls: Calls, before: str) -> None:
        text = written(form, calls)
        if form == "llama3" and before.strip():
            before = ""
        content, found = parse(form, list(before + text))
        assert (content.strip(), found) == (before.strip(), calls)

    check()


@pytest.mark.parametrize("form", FORMATS)
def test_marks_in_arguments(form: str) -> None:
    calls: Calls = [
        ("f", {"s": "a</tool_call>b", "u": "[TOOL_CALLS]g[ARGS]{}"}),
        ("f", {"s": "</function>\n</tool_call>", "u": 'x"}}\n</tool_call>'}),
        ("g", {}),
    ]
    text = written(form, calls)
    for pieces in every_way(text):
        assert parse(form, pieces) == ("", calls)


NO_ARGUMENTS = [
    ("hermes", "<tool_call>\n%s\n</tool_call>", "arguments"),
    ("mistral", "[TOOL_CALLS][%s]", "arguments"),
    ("llama3", "%s", "parameters"),
]


@pytest.mark.parametrize(("form", "frame", "key"), NO_ARGUMENTS)
@pytest.mark.parametrize("value", ["absent", None, "", "{}", {}])
def test_calls_without_arguments(form: str, frame: str, key: str, value: Any) -> None:
    call = {"name": "g"} if value == "absent" else {"name": "g", key: value}
    text = frame % json.dumps(call)
    for pieces in every_way(text):
        assert parse(form, pieces) == ("", [("g", {})])


@pytest.mark.parametrize(
    "text",
    ["[TOOL_CALLS]g[ARGS]", "[TOOL_CALLS]g[ARGS]{}", "[TOOL_CALLS]g[ARGS]null", "[TOOL_CALLS]g{}"],
)  # fmt: skip
def test_mistral_calls_without_arguments(text: str) -> None:
    for pieces in (*every_way(text), *every_way(text + text)):
        number = "".join(pieces).count("g")
        assert parse("mistral_args", pieces) == ("", [("g", {})] * number)


def xml(*lines: str) -> str:
    return "\n".join(lines)


XML: list[tuple[str, str, Calls]] = [
    # The four that the peers' parsers read.
    (xml("<tool_call>", "<function=f>", "<parameter=u>", "abc", "</parameter>", "</function>",
         "</tool_call>"), "", [("f", {"u": "abc"})]),
    (xml("<tool_call>", "<function=f>", "<parameter=b>", "True", "</parameter>", "</function>",
         "</tool_call>"), "", [("f", {"b": True})]),
    (xml("<tool_call>", "<function=f>", "<parameter=s>", "abc", "</function>", "</tool_call>"),
     "", [("f", {"s": "abc"})]),
    (xml("<function=f>", "<parameter=s>", "abc", "</parameter>", "</function>", "</tool_call>"),
     "", [("f", {"s": "abc"})]),
    # And their like.
    (xml("Well.", "<function=f>", "<parameter=s>", "abc", "</parameter>", "</function>"),
     "Well.", [("f", {"s": "abc"})]),
    (xml("<tool_call>", "<function=f>", "<parameter=s>", "abc", "<parameter=i>", "5",
         "</parameter>", "</function>", "</tool_call>"), "", [("f", {"s": "abc", "i": 5})]),
    (xml("<tool_call>", "<function=f>", "<parameter=s>", "a", "</function>", "</tool_call>",
         "<tool_call>", "<function=g>", "</function>", "</tool_call>"),
     "", [("f", {"s": "a"}), ("g", {})]),
    (xml("<tool_call>", "<function=f>", "<parameter=s>", "a", "</parameter>", "</tool_call>"),
     "", [("f", {"s": "a"})]),
    (xml("<tool_call>", "<function=f>", "<parameter=u>", "null", "</parameter>", "<parameter=o>",
         "None", "</parameter>", "</function>", "</tool_call>"),
     "", [("f", {"u": None, "o": None})]),
    (xml("<tool_call>", "<function=f>", "<parameter=d>", "{'a': True}", "</parameter>",
         "<parameter=e>", "2", "</parameter>", "</function>", "</tool_call>"),
     "", [("f", {"d": {"a": True}, "e": 2})]),
    (xml("<tool_call>", "<function=f>", "<parameter=i>", "five", "</parameter>",
         "<parameter=any>", "12", "</parameter>", "</function>", "</tool_call>"),
     "", [("f", {"i": "five", "any": "12"})]),
    (xml("<tool_call>", "<function=f>", "<parameter=x>", "NaN", "</parameter>", "</function>",
         "</tool_call>"), "", [("f", {"x": "NaN"})]),
    (xml("<tool_call>", "<function=f>", "<parameter=s>", "say </parameter> twice", "</parameter>",
         "</function>", "</tool_call>"), "", [("f", {"s": "say </parameter> twice"})]),
    ("Use <function=h> and <tool_call>.", "Use <function=h> and <tool_call>.", []),
    ("<tool_call>nonsense</tool_call> so", "<tool_call>nonsense</tool_call> so", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "content", "calls"), XML)
def test_xml_with_what_models_leave_out(text: str, content: str, calls: Calls) -> None:
    for pieces in every_way(text):
        assert parse("xml", pieces) == (content, calls)


BROKEN = [
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"s": "open}\n</tool_call>'),
    ("hermes", "<tool_call>{x}</tool_call>"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>'),
    ("hermes", f"<tool_call>{'[' * 5000}</tool_call>"),
    ("mistral", '[TOOL_CALLS][{"name": "unknown", "arguments": {}}]'),
    ("mistral_args", "[TOOL_CALLS]unknown[ARGS]{}"),
    ("llama3", '{"name": "unknown", "parameters": {}}'),
    ("xml", "<tool_call>\n<function=unknown>\n</function>\n</tool_call>"),
]


@pytest.mark.parametrize(("form", "text"), BROKEN)
def test_text_that_is_no_call_stays_and_later_calls_are_found(form: str, text: str) -> None:
    assert parse(form, list(text)) == (text, [])
    if form == "hermes" and "5" not in str(len(text)):
        more = written(form, [("g", {})])
        assert parse(form, [text + more]) == (text, [("g", {})])


def test_halves_of_characters_in_arguments() -> None:
    text = (
        r'<tool_call>{"name": "f", "arguments": {"s": "\ud83d", "q": "\ud83d\ude00"}}</tool_call>'
    )
    assert parse("hermes", [text]) == ("", [("f", {"s": "\ufffd", "q": "😀"})])


FULL: Calls = [("f", {"s": "Rome, Italy", "i": 35})]


@pytest.mark.parametrize("form", FORMATS)
def test_call_that_is_cut(form: str) -> None:
    """Like OpenAI: a call with arguments as far as they go, and never markup in the content."""
    text = written(form, FULL)
    whole = json.dumps(FULL[0][1])
    for end in range(1, len(text)):
        content, calls = parse(form, list(text[:end]), cut=True, forced=True)
        assert content == ""
        if calls:
            ((name, arguments),) = calls
            assert name == "f"
            assert whole.startswith(arguments) or json.loads(arguments) == FULL[0][1]
    assert calls
    begun = text[: text.index("Italy")]
    assert parse(form, [begun], cut=True)[1] == [("f", '{"s": "Rome, ')]
    # The same text that ends for another reason is no call.
    assert parse(form, [begun]) == (begun, [])


@pytest.mark.parametrize("form", FORMATS)
def test_second_call_that_is_cut(form: str) -> None:
    text = written(form, [("g", {}), *FULL])
    content, calls = parse(form, list(text[: text.index("Italy")]), cut=True)
    assert content == ""
    assert calls == [("g", "{}"), ("f", '{"s": "Rome, ')]


def test_only_function_that_is_cut_before_its_name() -> None:
    only = {"g": FUNCTIONS["g"]}
    parser = ToolParser(FORMATS["hermes"], only, forced=True)
    parts = [*parser.feed("<tool_call>\n{"), *parser.finish(cut=True)]
    assert [(p.name, p.arguments) for p in parts if isinstance(p, ToolCall)] == [("g", "")]
    assert len(parts) == 1


@pytest.mark.parametrize("form", ["mistral", "mistral_args"])
def test_ids_for_mistral(form: str) -> None:
    """Its templates refuse ids that are not nine letters and digits."""
    parser = ToolParser(FORMATS[form], FUNCTIONS)
    text = written(form, [("g", {}), ("g", {})])
    ids = [part.id for part in [*parser.feed(text), *parser.finish()] if isinstance(part, ToolCall)]
    assert len(set(ids)) == 2
    assert all(len(each) == 9 and each.isalnum() for each in ids)
