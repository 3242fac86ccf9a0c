"""No call copies the cache: seen in the commands that the compiler schedules.

A buffer is rows × heads × width; a step writes one row of it. What a step may never do is copy as
much as a whole buffer. The same IR without the pass `state-in-place` does, so the check can fail.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from iree.compiler import ir

from edgec.artifact import Artifact
from edgec.compiler.iree import iree_compile_file
from edgec.compiler.stages import shape_flags
from edgec.compiler.targets import parse_targets
from edgec.options import CompileOptions
from edgec.passes import parse_module

_COPY = re.compile(r"stream\.(?:cmd|async)\.(?:copy|clone|update|slice|transfer)\b[^:]*")
_CONSTANT = re.compile(r"(%[\w#]+) = arith\.constant (\d+) : index")


def commands(source: Path, folder: Path) -> dict[str, str]:
    """Compiles IR of the stage `input` to the level of streams; text by entry point."""
    flags = (*parse_targets("cpu")[0].flags, *shape_flags(CompileOptions()))
    output = folder / f"{source.stem}.stream.mlir"
    iree_compile_file(source, output, (*flags, "--compile-to=stream"))
    text = output.read_text()
    parts = re.split(r"util\.func public @(prefill|decode)\$async", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def large_copies(function: str, limit: int) -> list[str]:
    """The copies of `limit` bytes or more, or of a size that is not known."""
    constants = {name: int(value) for name, value in _CONSTANT.findall(function)}
    found = []
    for match in _COPY.finditer(function):
        length = match.group().rsplit(",", 1)[-1].strip()
        if constants.get(length, limit) >= limit:
            found.append(match.group())
    return found


@pytest.fixture(scope="module")
def buffer_bytes(tiny_artifact: Artifact) -> int:
    sizes = {math.prod(buffer.shape) * 4 for buffer in tiny_artifact.manifest.state}
    (size,) = sizes
    return size


def test_no_call_copies_the_cache(dump: Path, buffer_bytes: int, tmp_path: Path) -> None:
    functions = commands(dump / "cpu.input.mlir", tmp_path)
    for name, function in functions.items():
        assert f"arith.constant {buffer_bytes} : index" in function  # the buffers are there
        assert large_copies(function, buffer_bytes) == [], name
        assert not re.search(rf"wo %\w+\[[^\]]*for %c{buffer_bytes}\b", function)  # nor rewrites


def test_without_the_pass_it_would(dump: Path, buffer_bytes: int, tmp_path: Path) -> None:
    flags = (*parse_targets("cpu")[0].flags, "--compile-to=input")
    iree_compile_file(dump / "cpu.lowered.mlir", tmp_path / "plain.mlir", flags)
    for function in commands(tmp_path / "plain.mlir", tmp_path).values():
        assert len(large_copies(function, buffer_bytes)) == 2  # key and value of the one layer
    with ir.Context():
        module = parse_module((tmp_path / "plain.mlir").read_text())
        parse_targets("cpu")[0].input_pipeline.run(module)
        assert str(module) == (dump / "cpu.input.mlir").read_text()
