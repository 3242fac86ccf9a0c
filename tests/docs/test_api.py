"""The API reference is what the docstrings say, and they say what a caller needs."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import runpy
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def script(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "scripts" / "api_reference.py"))


def test_the_page_is_up_to_date(script: dict[str, Any]) -> None:
    page = script["PAGE"].read_text("utf-8")
    assert page == script["reference"](), "run: python scripts/api_reference.py"


def test_every_name_has_a_docstring(script: dict[str, Any]) -> None:
    missing = []
    for module, name, value in script["public"]():
        members = script["members"](value) if inspect.isclass(value) else []
        for path, one in [(f"{module}.{name}", value), *members]:
            if not inspect.getdoc(one):
                missing.append(f"{name}: {path}")
    assert not missing


def test_every_field_is_explained(script: dict[str, Any]) -> None:
    missing = []
    for _, name, value in script["public"]():
        if dataclasses.is_dataclass(value):
            explained = script["explained"](value)
            missing += [
                f"{name}.{f.name}" for f in dataclasses.fields(value) if f.name not in explained
            ]
    assert not missing


def test_every_argument_is_explained(script: dict[str, Any]) -> None:
    """A docstring that explains one argument explains all."""
    missing = []
    for _, name, value in script["public"]():
        members = dict(script["members"](value)) if inspect.isclass(value) else {}
        if not issubclass(type(value), enum.EnumMeta) and not dataclasses.is_dataclass(value):
            members[name] = value
        for path, function in members.items():
            explained = script["explained"](function)
            if isinstance(function, property) or not explained:
                continue
            for argument in inspect.signature(function).parameters:
                if argument not in {*explained, "self"}:
                    missing.append(f"{name}.{path}: {argument}")
    assert not missing
