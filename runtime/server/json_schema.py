"""JSON schemas of clients, made into ones that llguidance reads as the standard means them.

https://json-schema.org/draft/2020-12/json-schema-validation
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgec.runtime.server.errors import ApiError

__all__ = ["FORMATS", "embedded", "prepared"]

FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
"""Formats that llguidance knows. By the standard any other `format` is a remark."""
_LARGEST = 9 * 10**18
"""llguidance's ranges end with 64-bit integers. No limit of length is near it."""
_LONGEST = 10**6
_OF_ONE = (
    *("items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else"),
    *("propertyNames", "unevaluatedItems", "unevaluatedProperties"),
)
_OF_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_BOUNDS = {"minimum": -1, "exclusiveMinimum": -1, "maximum": 1, "exclusiveMaximum": 1}


def prepared(schema: dict[str, Any], param: str) -> dict[str, Any]:
    """A schema that allows nothing that the given one does not.

    Unknown formats are left out. Bounds that llguidance cannot hold are moved inwards, and so are
    exclusive bounds of numbers, by a billionth: it takes `0` for a number above 0 and below 1.

    Args:
        param: The field that the schema is from, for errors.

    Raises:
        ApiError: 400, it has a number that no 64 bits hold, where that matters.
    """
    holder: dict[str, Any] = {"not": schema}
    todo = [holder]
    while todo:
        owner = todo.pop()
        for container, key in list(_schemas_in(owner)):
            if isinstance(container[key], dict):
                container[key] = _one(container[key])
                todo.append(container[key])
    result: dict[str, Any] = holder["not"]
    _check_numbers(result, param)
    return result


def _schemas_in(schema: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The places of a schema that hold schemas. Their containers are made anew."""
    for name in _OF_ONE:
        if isinstance(schema.get(name), dict):
            yield schema, name
    for name in _OF_LISTS:
        if isinstance(schema.get(name), list):
            schema[name] = list(schema[name])
            for index in range(len(schema[name])):
                yield schema[name], index
    for name in _OF_NAMES:
        if isinstance(schema.get(name), dict):
            schema[name] = dict(schema[name])
            for key in schema[name]:
                yield schema[name], key


def _one(schema: dict[str, Any]) -> dict[str, Any]:
    """A copy of one level."""
    schema = dict(schema)
    if isinstance(schema.get("format"), str) and schema["format"] not in FORMATS:
        del schema["format"]
    for name, outwards in _BOUNDS.items():
        bound = schema.get(name)
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            continue
        if bound * outwards > _LARGEST:
            bound = schema[name] = _LARGEST * outwards
        if name.startswith("exclusive") and schema.get("type") != "integer":
            _include(schema, name, bound, outwards)
    for name in ("maxLength", "maxItems", "maxProperties", "maxContains"):
        # No context holds an answer that would be longer.
        if isinstance(most := schema.get(name), int | float) and most > _LONGEST:
            del schema[name]
    return schema


def _include(schema: dict[str, Any], name: str, bound: float, outwards: int) -> None:
    """Puts an inclusive bound in place of an exclusive one."""
    step = max(1e-9, abs(bound) * 1e-12)
    within = bound - outwards * step
    other = name.removeprefix("exclusive").lower()
    given = schema.get(other)
    del schema[name]
    if isinstance(given, int | float) and not isinstance(given, bool):
        within = min(given, within) if outwards > 0 else max(given, within)
    schema[other] = within


def _check_numbers(schema: Any, param: str) -> None:
    todo = [schema]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise ApiError(
                400, f"{param}: {str(value)[:40]} is beyond 64 bits", param=param,
                code="invalid_json_schema",
            )  # fmt: skip


def embedded(
    part: dict[str, Any], root: dict[str, Any], name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A schema, or a part of one, for a place in another one, and definitions for its `$defs`.

    References begin at the root of the whole. So where there are any, the root of the part becomes
    the definition `name`, and they are rewritten to begin there.
    """
    moved = _moved(part, name)
    if moved == part:
        return part, {}
    return moved, {name: _moved(root, name)}


def _moved(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_moved(each, name) for each in value]
    if not isinstance(value, dict):
        return value
    value = {key: _moved(each, name) for key, each in value.items()}
    if isinstance(ref := value.get("$ref"), str) and ref.startswith("#"):
        value["$ref"] = f"#/$defs/{name}{ref[1:]}"
    return value
