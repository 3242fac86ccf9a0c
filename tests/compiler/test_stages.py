"""Dumping the stages, stopping after one, going on from one; and what they are made to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import iree.runtime as rt
import pytest

import edgec
from edgec.artifact import Artifact
from edgec.compiler.iree import IreeError
from edgec.compiler.stages import STAGES
from edgec.errors import CompileError, InputError
from edgec.options import STAGE_NAMES
from edgec.passes.opt import main as edgec_opt

Compile = Callable[..., Artifact]

FILES = ["torch.mlir", "cpu.lowered.mlir", "cpu.input.mlir", "cpu.stream.mlir", "cpu.vmfb"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_stage_is_dumped(dump: Path, tiny_artifact: Artifact) -> None:
    assert names(dump) == sorted(FILES)
    assert len(FILES) == len(STAGE_NAMES) == 1 + len(STAGES)
    assert (dump / "cpu.vmfb").read_bytes() == (tiny_artifact.path / "cpu.vmfb").read_bytes()
    assert "torch.edgec.attention" in (dump / "torch.mlir").read_text()
    assert "torch.operator" not in (dump / "cpu.lowered.mlir").read_text()
    assert "!torch." not in (dump / "cpu.input.mlir").read_text()


@pytest.mark.parametrize("start", FILES[:-1])
def test_going_on_from_a_stage_gives_the_same_program(
    dump: Path, tiny_artifact: Artifact, tiny_folder: Path, tmp_path: Path, start: str
) -> None:
    model, output = str(tiny_folder), tmp_path / "again"
    again = edgec.compile(model, ctx_size=128, start_from=dump / start, output=output)
    assert again is not None
    for name in ("cpu.vmfb", "weights.irpa"):
        assert again.manifest.files[name] == tiny_artifact.manifest.files[name]
    assert again.manifest.digest != tiny_artifact.manifest.digest  # the IR may have been edited
    again.verify()


@pytest.mark.parametrize("stage", STAGE_NAMES)
@pytest.mark.usefixtures("fake_stages")
def test_stopping_after_a_stage(model: Path, tmp_path: Path, stage: str) -> None:
    before = names(tmp_path)
    options: dict[str, Any] = {"output": tmp_path / "out", "dump_ir": tmp_path / "ir"}
    assert edgec.compile(str(model), stop_after=stage, **options) is None
    assert names(tmp_path / "ir") == sorted(FILES[: 1 + STAGE_NAMES.index(stage)])
    assert names(tmp_path) == sorted([*before, "ir"])


def test_an_equal_build_is_made_again_for_its_dump(fake_compile: Compile, tmp_path: Path) -> None:
    fake_compile()
    fake_compile(dump_ir=tmp_path / "ir")
    assert names(tmp_path / "ir") == sorted(FILES)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stop_after": "linking"}, "stop-after 'linking': must be one of torch, lowered, input"),
        ({"stop_after": "input"}, "stop-after: without --dump-ir nothing would be kept"),
        ({"start_from": "no/such.mlir"}, "start-from no/such.mlir: no such file"),
        ({"start_from": "."}, "start-from .: no such file"),
        ({"start_from": "other.mlir"}, "other.mlir: not a dumped stage .must be named torch.mlir"),
        ({"start_from": "cpu.vmfb"}, "cpu.vmfb: not a dumped stage"),
        ({"start_from": "torch.mlir"}, "torch.mlir: not IR of this stage: "),
        ({"dump_ir": "other.mlir"}, "dump-ir: cannot write to other.mlir: not a folder"),
    ],
)
def test_wrong_uses(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("other.mlir", "cpu.vmfb", "torch.mlir"):
        Path(name).write_bytes(b"\xc3 no IR")
    before = names(tmp_path)
    with pytest.raises(InputError, match=says) as caught:
        edgec.compile(str(model), output="out", **options)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before


def test_an_operator_without_a_lowering_is_named(
    dump: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    text = (dump / "torch.mlir").read_text().replace("torch.edgec.linear", "torch.edgec.nonesuch")
    (tmp_path / "torch.mlir").write_text(text)
    options: dict[str, Any] = {"output": tmp_path / "out", "start_from": tmp_path / "torch.mlir"}
    with pytest.raises(CompileError, match="verify-lowered: no lowering for torch.edgec.nonesuch$"):
        edgec.compile(str(tiny_folder), ctx_size=128, **options)
    assert names(tmp_path) == ["torch.mlir"]


@pytest.mark.parametrize(
    ("start", "text", "extra", "log"),
    [
        ("cpu.lowered.mlir", "module { foo }", (), "cpu.input.log"),
        ("cpu.input.mlir", "module { foo }", (), "cpu.stream.log"),
        ("cpu.input.mlir", "module {}", ("--no-such-flag",), "cpu.stream.log"),
        ("cpu.stream.mlir", "module { foo }", (), "cpu.log"),
    ],
)
def test_iree_compile_fails(
    tiny_folder: Path, tmp_path: Path, start: str, text: str, extra: tuple[str, ...], log: str
) -> None:
    (tmp_path / start).write_text(text)
    with pytest.raises(CompileError, match=f"iree-compile failed on {start}: .*{log}") as caught:
        edgec.compile(
            str(tiny_folder),
            output=tmp_path / "out",
            start_from=tmp_path / start,
            dump_ir=tmp_path / "ir",
            extra_compile_args=extra,
        )
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == sorted([start, "ir"])
    whole = (tmp_path / "ir" / log).read_text()
    assert ("no-such-flag" if extra else "foo") in whole


@pytest.mark.parametrize(
    ("log", "summary"),
    [
        ("a.mlir:1:2: warning: w\na.mlir:3:4: error: it broke\n  more\n", "it broke"),
        ("\n  Assertion `x' failed\nstack\n", "Assertion `x' failed"),
        ("", "no message"),
        ("error: " + "x" * 1000, "x" * 300),
    ],
)
def test_the_line_that_says_what_is_wrong(log: str, summary: str) -> None:
    assert IreeError(log).summary == summary


def test_entry_points_share_the_parameters(dump: Path, tiny_artifact: Artifact) -> None:
    """One global for each parameter, read by prefill and decode; tied weights are one."""
    text = (dump / "cpu.input.mlir").read_text()
    declared = re.findall(r'#flow\.parameter\.named<"model"::"([^"]+)">', text)
    assert len(declared) == len(set(declared)) == tiny_artifact.manifest.parameters.count
    _, prefill, decode = re.split(r"util\.func public @(?:prefill|decode)\$async", text)
    for name in declared:
        for function in (prefill, decode):
            assert f"util.global.load @__auto.{name} " in function
    stored = rt.ParameterIndex()
    stored.load(str(tiny_artifact.path / "weights.irpa"))
    assert {name for name, _ in stored.items()} == set(declared)
    assert "model.embed_tokens.weight" in declared
    assert "lm_head.weight" not in declared
    entries = [entry for _, entry in stored.items()]
    assert sum(entry.length for entry in entries) == tiny_artifact.manifest.parameters.bytes


def test_the_recorded_passes_run_again(dump: Path, tiny_artifact: Artifact, tmp_path: Path) -> None:
    """`edgec-opt` makes of a dumped stage what the compiler made of it."""
    passes, again = tiny_artifact.manifest.programs["cpu"].pipelines, tmp_path / "again.mlir"
    source = str(dump / "torch.mlir")
    assert edgec_opt([source, "-p", passes["lowered"], "-o", str(again)]) == 0
    assert again.read_text().strip() == (dump / "cpu.lowered.mlir").read_text().strip()
