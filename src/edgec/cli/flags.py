"""Groups of options as one parameter of a command: each field becomes a flag of its own.

A group is a dataclass. Its fields are annotated with typer's options, or, where Python has the same
options (`edgec.options`), with a `Flag`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from edgec.errors import InputError
from edgec.options import Flag, flags_of

__all__ = ["Only", "flag_name", "numbers", "with_groups"]


class Only:
    """Annotates a group of which a command offers some fields only.

    Args:
        fields: Their names.
        defaults: Fields too, with a default of this command.
    """

    def __init__(self, *fields: str, **defaults: Any) -> None:
        self.defaults = defaults
        self.fields = {*fields, *defaults}


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of its groups as parameters, for typer."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Any, list[str]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        group = get_args(hints[name])[0] if get_args(hints[name]) else hints[name]
        if not dataclasses.is_dataclass(group):
            parameters.append(
                parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            )
            continue
        assert isinstance(group, type)
        made = _parameters(group)
        for only in (a for a in get_args(hints[name]) if isinstance(a, Only)):
            made = {n: p for n, p in made.items() if n in only.fields}
            made |= {n: made[n].replace(default=value) for n, value in only.defaults.items()}
        groups[name] = group, list(made)
        parameters += made.values()

    @functools.wraps(command)
    def call(**given: Any) -> None:
        for name, (group, fields) in groups.items():
            given[name] = group(**_values(group, {f: given.pop(f) for f in fields}))
        command(**given)

    vars(call)["__signature__"] = inspect.Signature(parameters)
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def flag_name(name: str, flag: Flag) -> str:
    """The flag of a field, such as `--ctx-size` of `ctx_size`."""
    return flag.name or f"--{name.replace('_', '-')}"


def numbers(flag: str, text: str) -> tuple[int, ...]:
    """Reads `128,512`.

    Raises:
        InputError: not whole numbers with commas.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise InputError(f"{flag} {text}: must be numbers with commas, such as 1,4")
    return tuple(map(int, parts))


def _parameters(group: type) -> dict[str, inspect.Parameter]:
    flags, hints = flags_of(group), get_type_hints(group, include_extras=True)
    made = {}
    for field in dataclasses.fields(group):
        default: Any = inspect.Parameter.empty
        if field.default is not dataclasses.MISSING:
            default = field.default
        annotation = hints[field.name]
        if field.name in flags:
            kind, flag = flags[field.name]
            annotation, default = _option(field.name, kind, flag, default)
        elif get_origin(annotation) is not Annotated:
            continue  # for Python only
        made[field.name] = inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )
    return made


def _option(name: str, kind: Any, flag: Flag, default: Any) -> tuple[Any, Any]:
    """Typer's annotation for a field, and the default that the command line shows."""
    if default is inspect.Parameter.empty:
        return Annotated[kind, typer.Argument(metavar=name.upper(), help=flag.help)], default
    option = typer.Option(
        flag_name(name, flag),
        *filter(None, [flag.short]),
        envvar=f"EDGEC_{name.upper()}" if flag.environment else None,
        metavar=flag.metavar,
        min=flag.least,
        help=flag.help,
    )
    if kind == tuple[str, ...]:
        return Annotated[list[str] | None, option], None
    if kind == tuple[int, ...]:
        return Annotated[str, option], ",".join(map(str, default))
    if default is True:
        return Annotated[bool, option], False
    kinds = get_args(kind) or (kind,)
    # A flag's text is a path, or a word, where Python takes other types too.
    read = next((k for k in (Path, str) if k in kinds), kinds[0])
    return Annotated[read | None if NoneType in kinds else read, option], default


def _values(group: type, given: dict[str, Any]) -> dict[str, Any]:
    """The fields' values of what the command line gives for them."""
    for name, (kind, flag) in flags_of(group).items():
        if name not in given:
            continue
        if kind == tuple[str, ...]:
            given[name] = tuple(given[name] or ())
        elif kind == tuple[int, ...]:
            given[name] = numbers(flag_name(name, flag), given[name])
        elif flag.name.startswith("--no-"):
            given[name] = not given[name]
    return given
