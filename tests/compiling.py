"""Finds the tests that compile a model or a kernel, so that `make quick` can leave them out.

A test compiles if its function, its fixtures or a helper of theirs in `tests/` does. Code is read,
not run. A test that hides it, in a text that another program runs, is marked `compiles` by hand;
`refuse_compilers` finds those that are not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

__all__ = ["compiles", "refuse_compilers"]

COMPILING = {
    "build_object", "build_objects", "compile_once", "iree_compile_file", "load_kernels",
}  # fmt: skip
"""Fixtures and functions that compile."""
COMMANDS = {"compile", "iree-compile"}
"""Arguments of programs that compile."""
FAKE = "fake_stages"
"""The fixture with which `edgec.compile` takes no time."""


def compiles(test: Any, fixtures: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a test's function, or one of its fixtures' definitions by name, compiles."""
    if COMPILING & set(fixtures):
        return True
    functions = [d.func for definitions in fixtures.values() for d in definitions]
    return any(_reaches(f, FAKE in fixtures) for f in [test, *functions])


def refuse_compilers() -> None:
    """From here on this process can compile neither a kernel nor a program.

    iree-compile without an output file only rewrites IR, as `cpu` does to learn of the host.
    """

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        command = [str(a) for a in arguments[1]] if event == "subprocess.Popen" else []
        names = {Path(part).name for part in command}
        if "zig" in names or ("iree-compile" in names and "-o" in command):
            raise RuntimeError("this test compiles: mark it `compiles` (tests/compiling.py)")

    sys.addaudithook(audit)


@cache
def _reaches(function: Any, fake: bool) -> bool:
    """Whether a function, or one in `tests/` that it names, compiles."""
    seen: set[Any] = set()
    waiting = [function]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if isinstance(one, type):
            waiting += [value for value in vars(one).values() if isinstance(value, FunctionType)]
            continue
        if hasattr(one, "hypothesis"):
            waiting.append(one.hypothesis.inner_test)
        waiting += filter(None, [getattr(one, "__wrapped__", None)])
        if not isinstance(one, FunctionType):
            continue
        for code in _codes(one.__code__):
            if _says_so(code, one.__globals__, fake):
                return True
            waiting += _named(code, one.__globals__)
    return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _says_so(code: CodeType, defined: dict[str, Any], fake: bool) -> bool:
    """Whether the code itself calls a compiler."""
    names, texts = set(code.co_names), set(_texts(code.co_consts))
    if COMPILING & names or COMMANDS & texts:
        return True
    imported = "compile" in names and ("edgec" in names or "compile" in defined)
    return not fake and (imported or any("edgec.compile(" in text for text in texts))


def _texts(constants: Iterable[Any]) -> Iterator[str]:
    """The texts among constants, those of lists too."""
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple | frozenset):
            yield from _texts(constant)


def _named(code: CodeType, names: dict[str, Any]) -> Iterator[Any]:
    """Functions and classes of `tests/` that the code names."""
    for name in code.co_names:
        value = names.get(name)
        if isinstance(value, ModuleType) and value.__name__.startswith("tests"):
            yield from _named(code, vars(value))
        elif isinstance(value, FunctionType | type) and value.__module__.startswith("tests"):
            yield value
