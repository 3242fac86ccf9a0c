"""Writes docs/api.md, the reference of edgec's public names, from signatures and docstrings.

    python scripts/api_reference.py

A test compares the page with the code, and refuses a public name without a docstring and a
dataclass with a field that its docstring does not explain.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
MODULES = ("edgec", "edgec.runtime", "edgec.errors")
"""Modules whose `__all__` is public, but for the helpers of `edgec.errors`. A name that two of
them have belongs to the first."""
HEAD = """\
# API reference

Public names with their signatures, from the docstrings, by `python scripts/api_reference.py`.
[python.md](python.md) shows them in use. Arrays are numpy's; `f32[V]` is a vector of V float32.
"""
SECTIONS = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):$", re.MULTILINE)
ITEM = re.compile(r"^ {4}(?P<names>\*{0,2}\w+(?:, \w+)*): ", re.MULTILINE)
WIDTH = 88


def sections(documentation: str) -> dict[str, str]:
    """A docstring's text, under the empty name, and its sections by name."""
    parts = SECTIONS.split(documentation)
    texts = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {"": parts[0].strip()} | {name: text.strip("\n") for name, text in texts.items()}


def items(section: str) -> dict[str, str]:
    """The items of a section: names, or what is before the first colon, to one line of text."""
    found: dict[str, str] = {}
    starts = [*ITEM.finditer(section)]
    for i, start in enumerate(starts):
        end = starts[i + 1].start() if i + 1 < len(starts) else len(section)
        found[start["names"]] = " ".join(section[start.end() : end].split())
    return found


def annotation(value: Any) -> str:
    """A type as the source has it."""
    text = value if isinstance(value, str) else inspect.formatannotation(value)
    return re.sub(r"\b(?:pathlib|typing|collections\.abc|npt|np)\.", "", text)


def signature(name: str, function: Any) -> str:
    """The call in a block of code; one parameter a line where it is long."""
    found = inspect.signature(function)
    parts: list[str] = []
    star = False
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            parts.append("*")
        stars = 2 * (parameter.kind is parameter.VAR_KEYWORD)
        stars += parameter.kind is parameter.VAR_POSITIONAL
        text = "*" * stars + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {parameter.default!r}"
        parts.append(text)
    result = ""
    if found.return_annotation not in (found.empty, None, "None"):
        result = f" -> {annotation(found.return_annotation)}"
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) > WIDTH:
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"
    return f"```python\n{line}\n```"


def described(documentation: str, skip: tuple[str, ...] = ()) -> Iterator[str]:
    """A docstring as Markdown: text, then each section as a list."""
    for name, text in sections(documentation).items():
        if name in skip:
            continue
        if not name:
            yield text
        elif found := items(text):
            yield f"{name}:\n\n" + "\n".join(f"- `{key}`: {value}" for key, value in found.items())
        else:
            yield f"{name}: {' '.join(text.split())}"


def explained(cls: type) -> dict[str, str]:
    """The meaning of each field, from a class's docstring."""
    found: dict[str, str] = {}
    for name, text in sections(inspect.getdoc(cls) or "").items():
        if name in ("Args", "Attributes"):
            for names, meaning in items(text).items():
                found |= dict.fromkeys(names.split(", "), meaning)
    return found


def fields(cls: type) -> str:
    """The table of a dataclass's fields."""
    meanings = explained(cls)
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        kind = annotation(field.type).replace("|", "\\|")
        meaning = meanings.get(field.name, "").replace("|", "\\|")
        rows.append(f"| `{field.name}` | `{kind}` | {default} | {meaning} |")
    return "\n".join(rows)


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """A class's public methods and properties, with those that it inherits."""
    own = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else ()
    bases = [base for base in cls.__mro__ if base.__module__.startswith("edgec.")]
    found = {name: value for base in reversed(bases) for name, value in vars(base).items()}
    for name, value in found.items():
        value = getattr(value, "__func__", value)
        if name.startswith("_") or name in own:
            continue
        if inspect.isfunction(value) or isinstance(value, property):
            yield name, value


def class_page(path: str, cls: type) -> Iterator[str]:
    """The entry of a class."""
    documentation = inspect.getdoc(cls) or ""
    if dataclasses.is_dataclass(cls):
        yield from described(documentation, ("Args", "Attributes"))
        yield fields(cls)
    elif issubclass(cls, enum.Enum):
        yield from described(documentation)
        yield "Values: " + ", ".join(f"`{member.name}`" for member in cls) + "."
    elif getattr(cls, "_is_protocol", False) or "__init__" not in vars(cls):
        yield from described(documentation)
    else:
        yield signature(path, cls)
        yield from described(documentation)
    for name, value in members(cls):
        yield f"#### `{cls.__name__}.{name}`"
        if isinstance(value, property):
            returned = inspect.signature(value.fget).return_annotation  # type: ignore[arg-type]
            yield f"```python\n{cls.__name__}.{name}: {annotation(returned)}\n```"
        else:
            yield signature(f"{cls.__name__}.{name}", value)
        yield from described(inspect.getdoc(value) or "")


def public() -> Iterator[tuple[str, str, Any]]:
    """Module, name and value of each public name."""
    seen: set[int] = set()
    for module in MODULES:
        for name in import_module(module).__all__:
            value = getattr(import_module(module), name)
            helper = module == "edgec.errors" and not inspect.isclass(value)
            if callable(value) and not helper and id(value) not in seen:
                seen.add(id(value))
                yield module, name, value


def reference() -> str:
    """The page."""
    blocks, current = [HEAD.strip()], ""
    for module, name, value in public():
        if module != current:
            current = module
            blocks.append(f"## {module}")
        path = f"{module}.{name}"
        blocks.append(f"### `{path}`")
        if inspect.isclass(value):
            blocks += class_page(path, value)
        else:
            blocks += [signature(path, value), *described(inspect.getdoc(value) or "")]
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
