"""A manifest made by hand, and a session that answers without a model."""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgec import cli
from edgec.artifact import Artifact
from edgec.manifest import (
    SCHEMA_VERSION,
    FileRecord,
    Manifest,
    Memory,
    ModelInfo,
    ParameterFile,
    Program,
    Prompt,
    StateBuffer,
)
from edgec.runtime import GenerationConfig, GenerationResult, StreamChunk, Timings, Usage

TIMINGS = Timings(10.0, 345.4, 10.0, 210.0, 12.0, 210.0)


@dataclass(frozen=True)
class Done:
    """The outcome of a command line."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def edgec_in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """`edgec_in_process(*arguments, stdin="")` runs a command line in this process, on fakes."""

    def run(*arguments: str | Path, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.execute([str(argument) for argument in arguments])
        return Done(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def hand_made(tmp_path: Path) -> Artifact:
    """An artifact that passes every check but holds no program."""
    folder = tmp_path / "hand-made.edgec"
    folder.mkdir()
    contents = {
        "cpu.vmfb": b"program" * 1000,
        "weights.irpa": b"w" * 20_000,
        "tokenizer.json": b"{}",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    buffers = [
        StateBuffer(f"layer{i}.{half}", "attention", (1056, 8, 128), "f16")
        for i in range(28)
        for half in ("k", "v")
    ]
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        digest="0123abcd",
        versions={"edgec": "0.1.0", "iree": "3.13.0"},
        model=ModelInfo(
            "preset:qwen3-0.6b", "", "Qwen3ForCausalLM", "qwen3", 151936, 1024, 40960, 28,
            596_049_920, 596_049_920,
        ),
        options={},
        dtype="f16",
        quantization={"scheme": "none"},
        prompt=Prompt(32, 32, 256),
        entry_points={},
        state=tuple(buffers),
        programs={"cpu": Program("cpu", "local-task", "cpu.vmfb", {}, {"avx2": ""})},
        parameters=ParameterFile("weights.irpa", "model", 1, 20_000),
        memory=Memory(20_000, 121_110_528),
        files={
            n: FileRecord(len(c), hashlib.sha256(c).hexdigest()) for n, c in contents.items()
        },
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.to_json())
    return Artifact.open(folder)


def answer(cached: int = 0) -> GenerationResult:
    return GenerationResult("Hello there", (0, 1), "length", Usage(12, 2, cached), TIMINGS)


class FakeModel:
    """The part of a session that shows its model."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.defaults = GenerationConfig()


@dataclass
class FakeSession:
    """Answers `Hello there`, and remembers what it was asked."""

    model: FakeModel
    device: str | None
    threads: int | None
    asked: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    resets: int = 0
    error: BaseException | None = None

    def stream(self, prompt: Any, **options: Any) -> Iterator[StreamChunk]:
        self.asked.append((prompt, options))
        yield StreamChunk("Hello", 0)
        if self.error:
            error, self.error = self.error, None
            raise error
        cached = 10 if len(self.asked) > 1 else 0
        yield StreamChunk(" there", 1, "length", answer(cached))

    def generate(self, prompt: Any, **options: Any) -> GenerationResult:
        self.asked.append((prompt, options))
        return answer()

    def reset(self) -> None:
        self.resets += 1


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[FakeSession]:
    """Puts `FakeSession` in place of the runtime's and lists those that were opened."""
    import edgec.runtime

    opened: list[FakeSession] = []

    def open_fake(
        artifact: Any, device: str | None = None, threads: int | None = None
    ) -> FakeSession:
        if not isinstance(artifact, Artifact):
            artifact = Artifact.open(artifact)
        opened.append(FakeSession(FakeModel(artifact), device, threads))
        return opened[-1]

    monkeypatch.setattr(edgec.runtime, "Session", open_fake, raising=False)
    return opened
