"""Compiles that are killed at random moments: no half artifact, none lost, the next one is right.

The stages of IREE are replaced by copies with a program that waits, so that a build takes a second;
all else, from the source to the rename, is true.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgec.artifact import Artifact
from edgec.manifest import MANIFEST_NAME

WAIT = "0.0371"  # seconds that each stage's program runs; tells it from other processes

# Reads a line of options, forks a process that compiles, and says its id; then how it ended.
SERVER = f'''
import json, os, sys
import edgec
from edgec.compiler import driver
from edgec.compiler.tools import run_tool
from iree.compiler import ir

def stage(source, output, target, options):
    run_tool(["/bin/sleep", "{WAIT}"])
    output.write_bytes(source.read_bytes() + b"//" + output.name.encode())

driver.export = lambda model, options, context: ir.Module.parse("module {{}}", context)
driver.STAGES.update(dict.fromkeys(driver.STAGES, stage))
edgec.compile(sys.argv[1], output=sys.argv[2], ctx_size=128)  # loads all there is
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "options" not in request:
        status = os.waitpid(request["wait"], 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)
    elif child := os.fork():
        print(child, flush=True)
    else:
        try:
            edgec.compile(sys.argv[1], ctx_size=128, **request["options"])
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
'''


class Compiler:
    """A process that has loaded the compiler, and compiles in forks of itself."""

    def __init__(self, model: Path, first: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(model), str(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def start(self, **options: Any) -> int:
        """Starts a compile and returns its process id."""
        return int(self._ask({"options": options}))

    def wait(self, process: int) -> int:
        """The exit code; the negative number of a signal."""
        return int(self._ask({"wait": process}))

    def compile(self, **options: Any) -> None:
        assert self.wait(self.start(**options)) == 0

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, request: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Compiler, dict[str, bytes]]]:
    """The compiler, and the files of the artifact that it makes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from edgec.models.sources.byte_tokenizer import byte_tokenizer_files

    folder = tmp_path_factory.mktemp("kill")
    config = AutoConfig.for_model(
        "qwen3", vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    for name, content in byte_tokenizer_files(260).items():
        assert isinstance(content, bytes)
        (folder / "model" / name).write_bytes(content)
    compiler = Compiler(folder / "model", folder / "right")
    try:
        yield compiler, files(folder / "right")
    finally:
        compiler.close()


def files(artifact: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in artifact.iterdir()}


def still_running() -> list[str]:
    """The stages' programs that nobody waits for any more."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if WAIT.encode() in command and state != "Z":
            found.append(entry.name)
    return found


KINDS = ("new output", "over another", "cache", "two, one output", "two, one cache")


@pytest.mark.compiles
@pytest.mark.parametrize(
    "kills", [pytest.param(5, id="five"), pytest.param(100, id="hundred", marks=pytest.mark.slow)]
)
def test_kill(made: tuple[Compiler, dict[str, bytes]], tmp_path: Path, kills: int) -> None:
    compiler, right = made
    chance = random.Random(kills)
    began = time.monotonic()
    compiler.compile(output=str(tmp_path / "timed"))
    took = time.monotonic() - began
    hit = 0
    for number in range(10 * kills):
        if hit == kills:
            break
        kind = KINDS[number % len(KINDS)]
        place = tmp_path / str(number)
        options: dict[str, Any] = {"output": str(place / "out"), "force": kind == "over another"}
        if "cache" in kind:
            options = {"cache_dir": str(place)}
        if kind == "over another":
            compiler.compile(output=options["output"], dtype="f16")
        both = [compiler.start(**options) for _ in range(1 + kind.startswith("two"))]
        # Half of them in the last third, where files are written and renamed.
        time.sleep(took * chance.uniform(0.6 if number % 2 else 0, 1.1))
        os.kill(both[0], signal.SIGKILL)
        ends = [compiler.wait(process) for process in both]
        hit += ends[0] == -signal.SIGKILL
        assert ends[1:] in ([], [0]), kind  # the one that was not killed finishes
        check(place, right, lost=kind != "over another" and ends == [-signal.SIGKILL])
        if kind != "over another":
            options.pop("force", None)
        compiler.compile(**options)
        (artifact,) = [path for path in place.iterdir() if path.name != "locks"]
        assert files(artifact) == right, kind
        assert not list(place.glob(".edgec-*")), kind
    assert hit == kills
    end = time.monotonic() + 10
    while still_running() and time.monotonic() < end:
        time.sleep(0.05)
    assert not still_running()


def check(place: Path, right: dict[str, bytes], *, lost: bool) -> None:
    """Whatever stands where an artifact is looked for is a whole one."""
    standing = [p for p in place.glob("*") if p.name != "locks" and not p.name.startswith(".")]
    assert standing or lost
    for path in standing:
        artifact = Artifact.open(path)
        artifact.verify()
        if artifact.manifest.dtype == "f32":
            assert files(path) == right
    # A half one has no manifest, under whatever name it is.
    for manifest in place.rglob(MANIFEST_NAME):
        if manifest.read_bytes()[-2:] == b"}\n":
            Artifact.open(manifest.parent).verify()
