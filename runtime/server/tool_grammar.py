"""Grammars for tool calls, in llguidance's Lark dialect.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from edgec.runtime.server.grammar import SPACE
from edgec.runtime.server.json_schema import embedded, prepared
from edgec.runtime.server.schemas import FunctionDefinition
from edgec.runtime.server.tools import FORMATS
from edgec.runtime.server.xml_calls import is_text

__all__ = ["tool_grammar"]

ANYTHING = {"type": "object"}
Marker = Callable[[str], str]
"""Spells a marker in a grammar: the token, where it is one, else its text."""


def tool_grammar(
    form: str,
    functions: Sequence[FunctionDefinition],
    marker: Marker,
    *,
    forced: bool,
    parallel: bool,
) -> str:
    """The grammar of all that the model may write.

    Args:
        form: A key of `FORMATS`.
        functions: Those that may be called.
        forced: A call must come, at once; else any text, in which calls are well formed.
        parallel: Several calls may come.
    """
    rules = {"text": "TEXT", "TEXT": r"/(.|\n)*/"}
    rules["body"] = _BODIES[form](functions, marker, rules, parallel)
    if form == "llama3":
        # The first character decides; a text that is no call starts with another one.
        start = "body" if forced else "body | PLAIN?"
        rules["PLAIN"] = r"/[^{\s](.|\n)*/"
    else:
        begin = FORMATS[form].begin
        several = parallel and form != "mistral"  # whose one array has them all
        rules["call"] = f"{marker(begin)} body"
        if forced:
            start = 'call ("\\n" call)*' if several else "call"
        elif marker(begin).startswith("<["):
            rules["free"] = f"TEXT {marker(begin)} body"
            start = "free* text" if several else "free | text"
        else:
            rules["free_begin[lazy]"] = f"TEXT {marker(begin)}"
            rules["free"] = "free_begin body"
            start = "free* text" if several else "free | text"
    lines = [f"{name}: {rule}" for name, rule in {"start": start, **rules}.items()]
    return "%llguidance {}\n" + "\n".join(lines) + "\n"


def _parameters(function: FunctionDefinition) -> dict[str, Any]:
    return prepared({**ANYTHING, **(function.parameters or {})}, "tools")


def _call_schema(functions: Sequence[FunctionDefinition], key: str) -> dict[str, Any]:
    calls: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for number, f in enumerate(functions):
        whole = _parameters(f)
        parameters, more = embedded(whole, whole, f"parameters{number}")
        definitions |= more
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": f.name}, key: parameters},
                "required": ["name", key],
                "additionalProperties": False,
            }
        )
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, "$defs": definitions} if definitions else schema


def _json(schema: dict[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": SPACE})


def _hermes(
    functions: Sequence[FunctionDefinition], marker: Marker, rules: dict[str, str], parallel: bool
) -> str:
    return f'"\\n" {_json(_call_schema(functions, "arguments"))} "\\n" {marker("</tool_call>")}'


def _xml(
    functions: Sequence[FunctionDefinition], marker: Marker, rules: dict[str, str], parallel: bool
) -> str:
    bodies = []
    for f, function in enumerate(functions):
        parts = [json.dumps(f"\n<function={function.name}>\n")]
        parameters = _parameters(function)
        for p, (key, schema) in enumerate(parameters.get("properties", {}).items()):
            rule, end = f"p_{f}_{p}", "\n</parameter>\n"
            if not is_text(schema, parameters):
                part, definitions = embedded(schema, parameters, "parameters")
                value = f"{_json({**part, '$defs': definitions})} {json.dumps(end)}"
            elif isinstance(schema, dict) and schema.get("enum"):
                texts = [
                    each if isinstance(each, str) else json.dumps(each) for each in schema["enum"]
                ]
                choices = " | ".join(json.dumps(text) for text in texts if text)
                value = f"({choices}) {json.dumps(end)}"
            else:
                rules[f"{rule}_text[lazy]"] = f"TEXT {json.dumps(end)}"
                value = f"{rule}_text"
            rules[rule] = f"{json.dumps(f'<parameter={key}>' + chr(10))} {value}"
            parts.append(rule if key in parameters.get("required", ()) else f"{rule}?")
        bodies.append(" ".join([*parts, '"</function>\\n"', marker("</tool_call>")]))
    return " | ".join(bodies)


def _mistral(
    functions: Sequence[FunctionDefinition], marker: Marker, rules: dict[str, str], parallel: bool
) -> str:
    call = _call_schema(functions, "arguments")
    definitions = call.pop("$defs", {})
    schema = {"type": "array", "items": call, "minItems": 1, "$defs": definitions}
    return _json(schema if parallel else {**schema, "maxItems": 1})


def _mistral_args(
    functions: Sequence[FunctionDefinition], marker: Marker, rules: dict[str, str], parallel: bool
) -> str:
    return " | ".join(
        f"{json.dumps(f.name)} {marker('[ARGS]')} {_json(_parameters(f))}" for f in functions
    )


def _llama3(
    functions: Sequence[FunctionDefinition], marker: Marker, rules: dict[str, str], parallel: bool
) -> str:
    return _json(_call_schema(functions, "parameters"))


_BODIES = {
    "hermes": _hermes,
    "xml": _xml,
    "mistral": _mistral,
    "mistral_args": _mistral_args,
    "llama3": _llama3,
}
