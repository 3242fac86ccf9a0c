"""The fault of a body in one sentence, from pydantic's list."""

from __future__ import annotations

import re
from typing import Any

from fastapi.exceptions import RequestValidationError

from edgec.runtime.server.errors import ApiError

__all__ = ["first_problem"]


def first_problem(error: RequestValidationError) -> ApiError:
    """The error to answer with: the first problem."""
    problem = error.errors()[0]
    kind, message = problem["type"], problem["msg"]
    if problem["loc"][:1] == ("path",):
        return ApiError(404, "there is nothing of this name", code="unknown_url")
    if kind == "json_invalid":
        why = problem.get("ctx", {}).get("error", message)
        return ApiError(400, f"the body is not JSON: {why}", code="invalid_json")
    if problem["loc"] == ("body",) and kind not in ("value_error", "unsupported_value"):
        return ApiError(
            400, "the body must be a JSON object, with Content-Type: application/json",
            code="invalid_json",
        )  # fmt: skip
    param = _path(problem["loc"][1:], error.body, kind)
    if kind in (
        "value_error",
        "unsupported_value",
    ):  # one of the schemas' own, which may name its field
        message = message.removeprefix("Value error, ")
        if named := re.match(r"([a-z_]+): (.*)", message, re.DOTALL):
            param = f"{param}.{named[1]}" if param else named[1]
            message = named[2]
    if kind == "unsupported_value":
        return ApiError(
            400, f"{param}: {message}", param=param, code="unsupported_parameter"
        )  # fmt: skip
    if kind == "missing":
        return ApiError(400, f"{param}: required", param=param, code="missing_required_parameter")
    message = message[:1].lower() + message[1:]
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def _path(location: tuple[Any, ...], body: Any, kind: str) -> str:
    """`messages.0.content`; pydantic's names of a union's members are no part of it."""
    path: list[str] = []
    value = body
    for number, part in enumerate(location):
        last = number == len(location) - 1
        if isinstance(value, dict) and (part in value or (last and kind == "missing")):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            continue
        path.append(str(part))
    return ".".join(path)
