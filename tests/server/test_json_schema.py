"""Schemas: what may be generated is what the JSON Schema standard allows."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from tests.server.conftest import Server

from edgec.errors import InputError
from edgec.runtime.server.errors import ApiError
from edgec.runtime.server.grammar import GrammarCompiler
from edgec.runtime.server.json_schema import FORMATS, embedded, prepared
from edgec.runtime.server.schemas import FunctionDefinition
from edgec.runtime.server.tool_grammar import tool_grammar
from edgec.runtime.tokenizer import Tokenizer

SIZE = 2048


@pytest.fixture(scope="module")
def compiler(repository: Path) -> Iterator[GrammarCompiler]:
    tokenizer = Tokenizer(repository / "models/bundled/tiny-dense")
    made = GrammarCompiler(tokenizer, SIZE, (2045, 2047))
    yield made
    made.close()


def generate(compiler: GrammarCompiler, schema: Any, seed: int, most: int = 400) -> str | None:
    """A text by random tokens, as a model without sense writes; None: it had no end."""
    chance = random.Random(seed)
    grammar, ids = compiler.from_schema(schema), list[int]()
    for _ in range(most):
        logits = np.zeros(SIZE, np.float32)
        grammar.mask(ids, logits)
        allowed = np.flatnonzero(logits == 0)
        if 2047 in allowed and (len(allowed) <= 2 or chance.random() < 0.4):
            return compiler._ids.decode(ids, skip_special_tokens=False)
        ids.append(int(chance.choice([each for each in allowed if each < 2045])))
    return None


def accepts(compiler: GrammarCompiler, schema: Any, text: str) -> bool:
    grammar = compiler.from_schema(schema)
    ids = compiler._ids.encode(text, add_special_tokens=False)
    for at in range(len(ids) + 1):
        logits = np.zeros(SIZE, np.float32)
        grammar.mask(ids[:at], logits)
        if logits[ids[at] if at < len(ids) else 2047] != 0:
            return False
    return True


def objects(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties),
        "additionalProperties": False,
    }  # fmt: skip


CAT = objects(kind={"const": "cat"}, lives={"type": "integer", "minimum": 1, "maximum": 9})
DOG = objects(kind={"const": "dog"}, name={"enum": ["Rex", "Bo"]})
SHORT = {"type": "string", "maxLength": 3}
SCHEMAS: list[Any] = [
    # Formats that pydantic writes and the standard does not know.
    *({**SHORT, "format": name} for name in ("path", "binary", "password", "json-string", "byte")),
    {"type": "integer", "format": "int32", "minimum": 0, "maximum": 9},
    objects(p={**SHORT, "format": "file-path"}, q={"anyOf": [{**SHORT, "format": "x"}]}),
    {"type": "string", "format": "date"},
    # A discriminated union.
    {"oneOf": [CAT, DOG]},
    {
        "$defs": {"Cat": CAT, "Dog": DOG},
        **objects(
            pet={
                "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
                "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat"}},
            }
        ),
    },
    # Bounds.
    {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
    {"type": "number", "exclusiveMinimum": 10, "exclusiveMaximum": 10.5},
    {"type": "number", "minimum": -0.5, "exclusiveMaximum": 0},
    {"type": "number", "minimum": -1.5, "exclusiveMaximum": -1},
    {"type": "number", "exclusiveMinimum": 0.25, "maximum": 1},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3},
    {"type": "integer", "minimum": -(10**30), "maximum": 10**30},
    {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
    {"type": "number", "minimum": -1e300, "maximum": 1e300},
    {"allOf": [{"exclusiveMinimum": 0}, {"maximum": 0.5}], "type": "number"},
    {"type": "array", "items": {"type": "boolean"}, "maxItems": 10**30},
    objects(a={"type": ["integer", "null"], "exclusiveMinimum": 0, "maximum": 5}),
]


@pytest.mark.parametrize("number", range(len(SCHEMAS)))
def test_what_is_generated_is_valid(compiler: GrammarCompiler, number: int) -> None:
    schema = SCHEMAS[number]
    validator = jsonschema.Draft202012Validator(schema)
    texts = [text for seed in range(8) if (text := generate(compiler, schema, seed)) is not None]
    assert texts
    for text in texts:
        assert validator.is_valid(json.loads(text)), text


def test_valid_values_are_allowed(compiler: GrammarCompiler) -> None:
    for schema, text in (
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "0.5"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "0.001"),
        ({"type": "integer", "exclusiveMinimum": 0}, "1"),
        ({"type": "integer", "maximum": 10**30}, "1700000000000000000"),
        ({"oneOf": [CAT, DOG]}, '{"kind": "dog", "name": "Rex"}'),
        ({"type": "string", "format": "path"}, '"/etc/x"'),
    ):
        assert accepts(compiler, schema, text)


@pytest.mark.slow
def test_bounds_of_numbers_allow_nothing_wrong(compiler: GrammarCompiler) -> None:
    values = [-2, -1.5, -1, -0.5, -0.25, 0, 0.25, 0.5, 1, 1.5, 2, 10, 10.5, 100]
    texts = sorted(
        {json.dumps(each + more) for each in values for more in (0, 0.0, 0.01, -0.01, 0.3)} | {"-0"}
    )
    chance = random.Random(0)
    for low in values:
        for high in (each for each in values if each > low):
            schema = {
                "type": "number",
                chance.choice(["minimum", "exclusiveMinimum"]): low,
                chance.choice(["maximum", "exclusiveMaximum"]): high,
            }
            validator = jsonschema.Draft202012Validator(schema)
            for text in texts:
                if accepts(compiler, schema, text):
                    assert validator.is_valid(json.loads(text)), (schema, text)


def test_formats_that_are_kept_are_known(compiler: GrammarCompiler) -> None:
    for name in FORMATS:
        compiler.from_schema({"type": "string", "format": name})
        assert prepared({"format": name}, "x") == {"format": name}
    assert not accepts(compiler, {"type": "string", "format": "date"}, '"tomorrow"')


def test_data_is_no_schema() -> None:
    data = {"format": "path", "exclusiveMinimum": 0, "oneOf": [], "items": {"format": "x"}}
    schema = {
        "const": data, "enum": [data], "default": data, "examples": [data], "x-mine": data,
        "properties": {"format": {"type": "string"}, "exclusiveMinimum": {"const": 1}},
    }  # fmt: skip
    assert prepared(schema, "x") == schema


def test_the_given_schema_is_not_changed() -> None:
    schema = {"properties": {"a": {"format": "path"}}, "anyOf": [{"exclusiveMinimum": 0}]}
    before = json.dumps(schema)
    assert json.dumps(prepared(schema, "x")) != before == json.dumps(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"const": 10**30}, {"enum": [1, 10**30]}, {"type": "integer", "minimum": 10**30},
        {"type": "integer", "multipleOf": 10**30}, {"type": "array", "minItems": 10**30},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1e-12},
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_honoured(compiler: GrammarCompiler, schema: Any) -> None:
    with pytest.raises((ApiError, InputError)) as refused:
        compiler.from_schema(schema)
    assert isinstance(refused.value, ApiError)
    assert (refused.value.status, refused.value.code) == (400, "invalid_json_schema")


NODE = objects(value={"type": "integer", "format": "int64"}, next={"anyOf": [
    {"$ref": "#/$defs/Node"}, {"type": "null"}]})  # fmt: skip
TREE = {**objects(root={"$ref": "#/$defs/Node"}), "$defs": {"Node": NODE}}
LIST = {**objects(root={"$ref": "#/$defs/Node"}), "$defs": {"Node": {"enum": [1, 2]}}}


def test_references_of_tools() -> None:
    """Two functions may have definitions of one name."""
    part, definitions = embedded(TREE, TREE, "p0")
    whole = {"properties": {"x": part}, "$defs": definitions}
    validator = jsonschema.Draft202012Validator(whole)
    node = {"value": 1, "next": {"value": 2, "next": None}}
    assert validator.is_valid({"x": {"root": node}})
    assert not validator.is_valid({"x": {"root": {"value": 1, "next": 5}}})
    assert embedded(CAT, CAT, "p0") == (CAT, {})


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "t", "arguments": %s}\n</tool_call>'),
        ("mistral", '[TOOL_CALLS][{"name": "t", "arguments": %s}]'),
        ("mistral_args", "[TOOL_CALLS]t[ARGS]%s"),
        ("llama3", '{"name": "t", "parameters": %s}'),
        ("xml", "<tool_call>\n<function=t>\n%s</function>\n</tool_call>"),
    ],
)
def test_grammar_of_tools_with_references(compiler: GrammarCompiler, form: str, text: str) -> None:
    functions = [FunctionDefinition(name="t", parameters=TREE)]
    functions.append(FunctionDefinition(name="l", parameters=LIST))
    lark = tool_grammar(form, functions, compiler.marker, forced=True, parallel=True)
    grammar = compiler.from_tools(lark)
    value: Any = {"value": 1, "next": {"value": 2, "next": None}}
    if form == "xml":
        written = text % f"<parameter=root>\n{json.dumps(value)}\n</parameter>\n"
    else:
        written = text % json.dumps({"root": value})
    ids = compiler._ids.encode(written, add_special_tokens=False)
    for at in range(len(ids) + 1):
        logits = np.zeros(SIZE, np.float32)
        grammar.mask(ids[:at], logits)
        assert logits[ids[at] if at < len(ids) else 2047] == 0, written[:at]


def test_over_http(server: Server) -> None:
    schema = objects(p={"enum": ["/x"], "format": "path"}, pet={"oneOf": [CAT, DOG]})
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = {
        "messages": [{"role": "user", "content": "x"}], "response_format": form, "max_tokens": 400,
    }  # fmt: skip
    answer = server.post("/v1/chat/completions", body).json()
    jsonschema.validate(json.loads(answer["choices"][0]["message"]["content"]), schema)
    form["json_schema"] = {"name": "x", "schema": {"const": 10**30}}
    refused = server.post("/v1/chat/completions", body)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "invalid_json_schema"
