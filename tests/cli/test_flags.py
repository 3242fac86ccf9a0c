"""The options of a compile are the same as flags, in Python and in docs/cli.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgec
from edgec.cli.flags import flag_name
from edgec.options import CompileRequest, SourceOptions, flags_of

FLAGS = {name: flag for name, (_, flag) in flags_of(CompileRequest).items() if name != "model"}
DEFAULTS = {n: p.default for n, p in inspect.signature(CompileRequest).parameters.items()}


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "cli.md").read_text("utf-8")


def test_the_table_of_the_page(page: str) -> None:
    """A row for each flag, in the order of `--help`, with its default and its values."""
    section = page.split("\n## edgec compile\n")[1].split("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:4] for line in section.splitlines() if "| `-" in line]
    found = {re.findall(r"--[\w-]+", first)[0]: (first, *rest) for first, *rest in rows}
    assert list(found) == [*(flag_name(n, f) for n, f in FLAGS.items()), "--json", "--verbose"]
    for name, flag in FLAGS.items():
        first, default, meaning = found[flag_name(name, flag)]
        assert flag.short in first, name
        if flag.metavar and flag.metavar not in ("TYPE", "FORMAT"):
            assert flag.metavar in first or name == "group_size", name
        missing = [c for c in flag.choices if f"`{c}`" not in default + meaning]
        assert not missing, name
        value = DEFAULTS[name]
        if isinstance(value, bool):
            assert default.strip() == "off", name
        elif value not in (None, ()):
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            assert default.strip(" `") == shown, name


def test_the_environment_of_the_page(page: str) -> None:
    section = page.split("\n## Environment\n")[1]
    names = {f"EDGEC_{name.upper()}" for name, flag in FLAGS.items() if flag.environment}
    sources = {f"EDGEC_{name.upper()}" for name in flags_of(SourceOptions)}
    (row,) = [line for line in section.splitlines() if "of `compile` |" in line]
    assert set(re.findall(r"EDGEC_\w+", row)) == names - sources
    assert sources <= set(re.findall(r"EDGEC_\w+", section))


def test_the_keywords_are_the_fields() -> None:
    described = inspect.signature(edgec.compile).parameters
    assert {n: p.default for n, p in described.items()} == DEFAULTS
    assert described["model"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert all(f"\n    {name}: " in (inspect.getdoc(edgec.compile) or "") for name in described)
    with pytest.raises(TypeError, match="prompt_sizes"):
        edgec.compile("bundled:tiny-dense", prompt_sizes=(32,))  # type: ignore[call-arg]


GIVEN = """--target cuda -o out --dtype f16 --kv-dtype bf16 -c 512 --prompt-multiple 16
 --chunk-size 64 --batch 4,1 --dynamic-shapes none --quantize int4 --group-size 64
 --embedding-quantize int8 --asymmetric --layers 2 --seed 7 --extra-compile-arg=-a
 --extra-compile-arg=-b --revision r --offline --trust-remote-code --cache-dir cache --no-cache
 --force --dump-ir ir --stop-after input --start-from file"""


def test_every_flag_arrives(
    edgec_in_process: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[CompileRequest] = []
    monkeypatch.setattr(
        "edgec.cli.compile.compile_with_progress", lambda _, request, **__: asked.append(request)
    )
    edgec_in_process("compile", "m", *GIVEN.split())
    edgec_in_process("compile", "m", "--expert-stats")
    monkeypatch.setenv("EDGEC_BATCH", "1,8")
    monkeypatch.setenv("EDGEC_QUANTIZE", "int8")
    edgec_in_process("compile", "m")
    all_given, stats, environment = asked
    differs = [n for n in FLAGS if getattr(all_given, n) == getattr(CompileRequest("m"), n)]
    assert differs == ["expert_stats"] and stats.expert_stats  # not with --batch
    assert (all_given.batch, all_given.extra_compile_args) == ((1, 4), ("-a", "-b"))
    assert (all_given.output, all_given.group_size) == (Path("out"), "64")
    assert not all_given.use_cache
    assert (environment.batch, environment.quantize) == ((1, 8), "int8")
