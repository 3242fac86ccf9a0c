"""Every command with values that nobody sane gives: one bounded line, and never "this is a bug"."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.manifests import rewrite_manifest

from edgec.artifact import Artifact
from edgec.cli.inspect import describe
from edgec.errors import LONGEST, EdgecError
from edgec.manifest import Manifest

Edgec = Callable[..., Any]

TEXTS = [
    "", " ", "-", "--", "\x00", "\x1b[2J", "[/x]", "[blink]x", "../../x", "~nobody-such/x",
    "/dev/null", "/proc/self/mem", "a" * 5000, "é😀\u2028", "a\udcffb", "%s%n{}{0}", "$(id)",
    "\n\n", "1e999", "NaN", "10" * 3000, "[" * 100_000, '{"a": [' * 500, "http://x/y", "cpu:",
    ":cpu", "cpu,,cpu", "vulkan:\x1b",
]  # fmt: skip
NUMBERS = [
    "-1", "0", "10" * 200, "1" * 5000, "1e400", "nan", "inf", "-inf", "0x10", "\u0663", "1_000", "",
]  # fmt: skip

# A command line with a place for the value; FILE is an artifact, and the current folder is empty.
COMMANDS = [
    ["compile", "VALUE"],
    ["compile", "bundled:tiny-dense", "--target", "VALUE"],
    ["compile", "bundled:tiny-dense", "--dtype", "VALUE"],
    ["compile", "bundled:tiny-dense", "--kv-dtype", "VALUE"],
    ["compile", "bundled:tiny-dense", "--quantize", "VALUE"],
    ["compile", "bundled:tiny-dense", "--group-size", "VALUE"],
    ["compile", "bundled:tiny-dense", "--batch", "VALUE"],
    ["compile", "bundled:tiny-dense", "--dynamic-shapes", "VALUE"],
    ["compile", "bundled:tiny-dense", "--revision", "VALUE"],
    ["compile", "bundled:tiny-dense", "--stop-after", "VALUE"],
    ["compile", "bundled:tiny-dense", "--start-from", "VALUE"],
    ["run", "VALUE", "-p", "a"],
    ["run", "FILE", "-f", "VALUE"],
    ["run", "FILE", "-p", "a", "--device", "VALUE"],
    ["run", "FILE", "-p", "a", "--chat-template-kwargs", "VALUE"],
    ["run", "FILE", "-p", "a", "--stats", "VALUE"],
    ["chat", "VALUE"],
    ["serve", "VALUE"],
    ["serve", "FILE", "--memory", "VALUE"],
    ["serve", "FILE", "--max-body", "VALUE"],
    ["inspect", "VALUE"],
    ["bench", "VALUE"],
    ["bench", "FILE", "-p", "VALUE"],
    ["bench", "FILE", "-pg", "VALUE"],
    ["bench", "FILE", "-o", "VALUE"],
    ["bench", "roofline", "FILE", "--scenarios", "VALUE"],
    ["eval", "ppl", "VALUE", "--artifact", "FILE"],
    ["models", "create", "VALUE", "-o", "out"],
    ["VALUE"],
]
NUMERIC = [
    ["compile", "bundled:tiny-dense", "-c", "VALUE"],
    ["compile", "bundled:tiny-dense", "--prompt-multiple", "VALUE"],
    ["compile", "bundled:tiny-dense", "--chunk-size", "VALUE"],
    ["compile", "bundled:tiny-dense", "--layers", "VALUE"],
    ["compile", "bundled:tiny-dense", "--seed", "VALUE"],
    *(["run", "FILE", "-p", "a", flag, "VALUE"] for flag in (
        "-n", "--temp", "--top-k", "--top-p", "--min-p", "--repeat-penalty", "-s", "-t")),
    *(["serve", "FILE", flag, "VALUE"] for flag in ("--max-queue", "--ttl", "--timeout")),
    ["bench", "FILE", "-r", "VALUE"],
    ["bench", "FILE", "-t", "VALUE"],
    ["models", "create", "qwen3-0.6b", "-o", "out", "--layers", "VALUE"],
]  # fmt: skip


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder; and what is right is not done."""

    import edgec.compiler.driver

    def taken(*_: Any, **__: Any) -> None:
        raise EdgecError("taken")

    monkeypatch.setattr(edgec.compiler.driver, "load", taken)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize(
    "every", [pytest.param(7, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("command", [*COMMANDS, *NUMERIC], ids=" ".join)
def test_values(
    edgec_in_process: Edgec, quiet: None, hand_made: Artifact, command: list[str], every: int
) -> None:
    values = TEXTS if command in COMMANDS else NUMBERS
    first = [*COMMANDS, *NUMERIC].index(command) % every
    for value in values[first::every]:
        words = [{"VALUE": value, "FILE": str(hand_made.path)}.get(w, w) for w in command]
        done = edgec_in_process(*words)
        error = done.stderr
        assert done.code in (0, 1, 2), (words, done)
        assert "this is a bug" not in error and "Traceback" not in error, (words, error[-2000:])
        assert "\x1b" not in error, (words, error[-2000:])
        lines = [line for line in error.splitlines() if line.startswith("edgec: error")]
        assert len(lines) <= 1 and all(len(line) < 2 * LONGEST + 200 for line in lines), words


def change(artifact: Artifact, **values: Any) -> Path:
    """The artifact with fields of its manifest replaced."""
    data = json.loads((artifact.path / "manifest.json").read_text())
    for name, value in values.items():
        place, _, key = name.rpartition("__")
        (data[place] if place else data)[key] = value
    rewrite_manifest(artifact.path, data)
    return artifact.path


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("flags", [[], ["--json"]])
@pytest.mark.parametrize(
    "values",
    [
        *({"model__id": text} for text in (
            "[/x]", "[blink]x", "[red]x[/]", "\x1b[2J", "é😀", "a\nb")),
        {"model__id": "x" * 1_000_000},
        {"model__revision": "[/x]"},
        {"dtype": "[/x]"},
        {"digest": "[/x]\x1b[2J"},
        {"versions": {"[/x]": "[/y]"}},
        {"quantization": {"unquantized": "[/x]", "unquantized_bytes": "x"}},
        {"quantization": {"unquantized": "a", "unquantized_bytes": "9" * 4000}},
        {"options": {"a": deep(900)}},
        {"options": {"a": deep(90)}},
        {"model__parameters": 10**400},
        {"model__active_parameters": -(10**400)},
        {"memory__weights": 10**400},
        {"memory__state_per_sequence": -1},
    ],
    ids=lambda value: repr(value)[:50],
)  # fmt: skip
def test_inspect_shows_what_strangers_wrote(
    edgec_in_process: Edgec, hand_made: Artifact, values: dict[str, Any], flags: list[str]
) -> None:
    done = edgec_in_process("inspect", change(hand_made, **values), *flags)
    assert "this is a bug" not in done.stderr
    assert done.code == 0 or done.stderr.count("\n") == 1
    assert "\x1b" not in done.stdout + done.stderr
    if done.code == 0 and not flags:
        text = str(values.get("model__id", ""))
        if text in ("[/x]", "[blink]x", "[red]x[/]", "é😀"):
            rows = [line.split() for line in done.stdout.splitlines()]
            assert ["model", text] in rows  # as it is, with its brackets
        assert len(done.stdout) < 200_000


def test_many_kinds_of_state(hand_made: Artifact) -> None:
    """A line for each of some kinds, and how many there are."""
    buffer = {"kind": "attention", "dtype": "f32"}
    state = [{"name": f"a{n}", "shape": [n + 1, 2**62], **buffer} for n in range(1000)]
    folder = change(hand_made, state=state)
    manifest = Manifest.from_json((folder / "manifest.json").read_text(), folder)
    rows = [value for name, value in describe(manifest) if name == "state"]
    assert rows[0].startswith("1000 kinds")
    assert len(rows) < 50


MISTAKES = {
    "compile ./no/such": "model ./no/such: no such folder",
    "compile bundled:tiny-danse": "did you mean tiny-dense?",
    "run preset:qwen9 -p a": "preset 'qwen9': unknown",
    "chat tiny-dense": "did you mean bundled:tiny-dense?",
    "serve ./no/such": "model ./no/such: no such folder",
    "run org/no-such --offline -p a": "model org/no-such: not in the local cache",
    "bench ablation ./no/such": "model ./no/such: no such folder",
    "compile empty": "model empty: no config.json",
    "compile bad.gguf": "bad.gguf: not a whole GGUF file: it does not begin with GGUF",
    "compile bundled:tiny-dense --dtype f8": "dtype 'f8': must be one of f32, f16, bf16",
    "compile bundled:tiny-dense --stop-after x": "stop-after 'x': must be one of torch, lowered",
    "compile bundled:tiny-dense --start-from x": "start-from x: no such file",
    "compile bundled:tiny-dense -c 33": "ctx-size 33: must be a multiple",
    "compile bundled:tiny-dense --target tpu": "target 'tpu': must be one of cpu, vulkan, cuda",
    "bench ablation bundled:tiny-dense --quantize int3": "quantize 'int3': must be one of",
}
HEAVY = ("torch", "transformers", "iree.compiler")


def test_a_mistake_is_refused_before_the_compiler_is_loaded(tmp_path: Path) -> None:
    """All in one process, so that it is known which of them loads something."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.gguf").write_bytes(b"x" * 100)
    program = f"""
import sys
from edgec.cli import execute
for line in {list(MISTAKES)!r}:
    print(execute(line.split()), [name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines() == ["2 []"] * len(MISTAKES)
    for line, says in zip(done.stderr.splitlines(), MISTAKES.values(), strict=True):
        assert line.startswith("edgec: error: ") and says in line
