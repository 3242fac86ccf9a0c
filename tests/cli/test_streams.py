"""Bytes that are no text, streams that cannot hold an answer, streams that are closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.manifests import rewrite_manifest

from edgec.artifact import Artifact

Edgec = Callable[..., Any]

# The command line on a session that answers with what an ASCII stream cannot hold.
FAKE = """
import sys
import edgec.runtime
from edgec.runtime import GenerationConfig, GenerationResult, StreamChunk, Timings, Usage

class Session:
    def __init__(self, artifact, device=None, threads=None):
        self.artifact = artifact
        self.model, self.defaults = self, GenerationConfig()
    def result(self):
        return GenerationResult("caf\\u00e9 \\U0001f600", (0, 1), "length", Usage(1, 2, 0),
                                Timings(1.0, 1.0, 1.0, 1.0, 1.0, 1.0))
    def stream(self, prompt, **options):
        print(ascii(prompt), file=sys.stderr)
        yield StreamChunk("caf\\u00e9 ", 0)
        yield StreamChunk("\\U0001f600", 1, "length", self.result())
    def generate(self, prompt, **options):
        return self.result()
    def reset(self):
        pass

edgec.runtime.Session = Session
from edgec.cli import main
main()
"""


def run(*arguments: Any, shell: str = "", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """`edgec` with a fake session, in bytes; `shell` redirects."""
    command = [sys.executable, "-c", FAKE, *map(os.fsencode, map(str, arguments))]
    if shell:
        command = ["/bin/sh", "-c", f'exec "$@" {shell}', "sh", *command]
    environment = {**os.environ, **options.pop("environment", {})}
    return subprocess.run(
        command, capture_output=True, timeout=120, env=environment, check=False, **options
    )


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line of an error."""
    assert done.returncode == 2, done
    text = done.stderr.decode()
    assert text.startswith("edgec: error: ") and text.count("\n") == 1, text
    return text


NOT_TEXT = [b"a\xffb", "aé\udcff".encode("utf-8", "surrogateescape"), b"a\xed\xa0\x80", b"caf\xe9"]


WAYS = ["-p", "-p -", "-f", "--system-prompt", "--stop", "kwargs"]


@pytest.mark.parametrize(
    ("content", "way"), [(c, "-p -") for c in NOT_TEXT[1:]] + [(NOT_TEXT[0], way) for way in WAYS]
)
def test_what_comes_in_is_text(
    hand_made: Artifact, tmp_path: Path, content: bytes, way: str
) -> None:
    (tmp_path / "f").write_bytes(content)
    text = os.fsdecode(content)
    arguments = {
        "-p": ["-p", text],
        "-p -": ["-p", "-"],
        "-f": ["-f", tmp_path / "f"],
        "--system-prompt": ["-p", "a", "--system-prompt", text],
        "--stop": ["-p", "a", "--stop", text],
        "kwargs": ["-p", "a", "--chat-template-kwargs", f'{{"a": "{text}"}}'],
    }[way]
    line = said(run("run", hand_made.path, *arguments, input=content))
    place = {b"a\xffb": 1, b"caf\xe9": 3, b"a\xed\xa0\x80": 1}.get(content, 3)
    if way == "kwargs":
        place += len('{"a": "')
    assert f": byte {place} is not UTF-8 (convert it" in line
    assert {"-p": "--prompt", "-p -": "stdin", "kwargs": "--chat"}.get(way, way) in line


def test_half_a_pair_in_json(hand_made: Artifact) -> None:
    line = said(run("run", hand_made.path, "-p", "a", "--chat-template-kwargs", r'{"a": "\ud800"}'))
    assert "--chat-template-kwargs: byte" in line


@pytest.mark.parametrize("way", ["-p", "-p -", "-f"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_utf8_comes_in_whatever_the_locale(
    hand_made: Artifact, tmp_path: Path, way: str, encoding: str
) -> None:
    text = "é 😀 \u2028 \x01"
    (tmp_path / "f").write_text("\ufeff" + text, "utf-8")
    arguments = {"-p": ["-p", text], "-p -": ["-p", "-"], "-f": ["-f", tmp_path / "f"]}[way]
    environment = {"PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    done = run(
        "run", hand_made.path, *arguments, input=b"\xef\xbb\xbf" + text.encode(),
        environment=environment,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr.decode().splitlines()[0] == ascii(text)


@pytest.mark.parametrize("command", ["run", "chat", "run --json", "inspect", "inspect --json"])
@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1"])
def test_what_goes_out(hand_made: Artifact, command: str, encoding: str) -> None:
    manifest = hand_made.path / "manifest.json"
    data = json.loads(manifest.read_text())
    data["model"]["id"] = "caf\u00e9 \U0001f600 \ud800"
    rewrite_manifest(hand_made.path, data)
    name, *flags = command.split()
    more = ["-p", "a"] if name == "run" else []
    done = run(
        name, hand_made.path, *more, *flags, input=b"hi\n",
        environment={"PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = done.stdout.decode(encoding.partition(":")[0])
    if flags:
        found = json.loads(out)
        assert (found["text"] if name == "run" else found["model"]["id"]).startswith(
            "caf\u00e9 \U0001f600"
        )
    else:
        expected = "caf\u00e9 \U0001f600".encode(
            encoding.partition(":")[0], "backslashreplace"
        ).decode(encoding.partition(":")[0])
        assert expected in out


@pytest.mark.parametrize(
    ("arguments", "shell", "code", "line"),
    [
        (["run", "-p", "a"], ">&-", 1, "edgec: error: stdout: closed, so that nothing can be"),
        (["run", "-p", "a", "--json"], ">&-", 1, "edgec: error: stdout: closed"),
        (["inspect"], ">&-", 1, "edgec: error: stdout: closed"),
        (["run", "-p", "a"], ">/dev/full", 1, "edgec: error: No space left on device"),
        (["run", "-p", "-"], "<&-", 2, "edgec: error: the prompt is empty"),
        (["chat"], "<&-", 0, ""),
        (["run", "-p", "a"], "2>&-", 0, ""),
        (["run", "-p", "a"], "<&- 2>&-", 0, ""),
        (["run", "-f", "/dev/zero"], "", 2, "edgec: error: --file /dev/zero: more than 64 m"),
        (["run", "-f", "/"], "", 2, "edgec: error: --file /: cannot be read"),
    ],
)  # fmt: skip
def test_streams_that_are_closed(
    hand_made: Artifact, arguments: list[str], shell: str, code: int, line: str
) -> None:
    command, *flags = arguments
    done = run(command, hand_made.path, *flags, shell=shell, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done
    assert line in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_nothing_that_is_printed_gets_into_a_file(hand_made: Artifact, tmp_path: Path) -> None:
    """A file opened after stdout and stderr were closed does not take their places."""
    program = f"""
from edgec.cli.streams import open_streams
open_streams()
import os
file = open({str(tmp_path / "f")!r}, "w")
os.write(1, b"printed")
os.write(2, b"printed")
"""
    command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(command, check=False).returncode == 0
    assert (tmp_path / "f").read_text() == ""
