"""`edgec run` on a session that answers without a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgec.artifact import Artifact
from edgec.cli.generate import is_artifact
from edgec.options import CompileRequest

Edgec = Callable[..., Any]


def test_streams_text_and_timings(
    edgec_in_process: Edgec, sessions: list[Any], hand_made: Artifact
) -> None:
    done = edgec_in_process("run", hand_made.path, "-p", "In the", "-n", "2", "-t", "3")
    assert (done.code, done.stdout) == (0, "Hello there\n")
    assert done.stderr == (
        "prompt 12 tokens 345 tok/s · decode 2 tokens 210 tok/s · first token 12 ms · peak 210 MB\n"
    )
    assert sessions[0].asked == [("In the", {"max_new_tokens": 2})]
    assert (sessions[0].device, sessions[0].threads) == (None, 3)


def test_json(edgec_in_process: Edgec, sessions: list[Any], hand_made: Artifact) -> None:
    done = edgec_in_process("run", hand_made.path, "-p", "a", "--json")
    assert json.loads(done.stdout)["text"] == "Hello there"
    assert done.stderr == ""


def test_no_stats(edgec_in_process: Edgec, sessions: list[Any], hand_made: Artifact) -> None:
    assert edgec_in_process("run", hand_made.path, "-p", "a", "--no-stats").stderr == ""


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ([], "hi"),
        (["--no-chat-template"], "hi"),
        (["--chat"], [{"role": "user", "content": "hi"}]),
        (
            ["--system-prompt", "be kind"],
            [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}],
        ),
    ],
)
def test_plain_text_unless_a_chat(
    edgec_in_process: Edgec, sessions: list[Any], hand_made: Artifact, flags: list[str], asked: Any
) -> None:
    edgec_in_process("run", hand_made.path, "-p", "hi", *flags)
    assert sessions[0].asked[0][0] == asked


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ("--temperature 0", {"temperature": 0.0}),
        ("--temp 0.5 -s 7", {"temperature": 0.5, "seed": 7}),
        (
            "--top-k 5 --top-p 0.9 --min-p 0.1",
            {"top_k": 5, "top_p": 0.9, "min_p": 0.1},
        ),
        ("--repeat-penalty 1.1 --max-tokens 4", {"repetition_penalty": 1.1, "max_new_tokens": 4}),
        ("--stop a --stop b --ignore-eos", {"stop_strings": ["a", "b"], "ignore_eos": True}),
        (
            """--chat --chat-template-kwargs {"think":false}""",
            {"chat_template_kwargs": {"think": False}},
        ),
    ],
)
def test_sampling_flags(
    edgec_in_process: Edgec,
    sessions: list[Any],
    hand_made: Artifact,
    flags: str,
    options: dict[str, Any],
) -> None:
    done = edgec_in_process("run", hand_made.path, "-p", "a", *flags.split())
    assert done.code == 0, done.stderr
    assert sessions[0].asked[0][1] == options


def test_prompt_from_stdin_and_file(
    edgec_in_process: Edgec, sessions: list[Any], hand_made: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "prompt.txt").write_text("from a file")
    edgec_in_process("run", hand_made.path, "-p", "-", stdin="from stdin")
    edgec_in_process("run", hand_made.path, "-f", tmp_path / "prompt.txt")
    assert [session.asked[0][0] for session in sessions] == ["from stdin", "from a file"]


def test_environment_below_flags(
    edgec_in_process: Edgec,
    sessions: list[Any],
    hand_made: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGEC_MAX_NEW_TOKENS", "5")
    edgec_in_process("run", hand_made.path, "-p", "a")
    edgec_in_process("run", hand_made.path, "-p", "a", "-n", "6")
    assert [session.asked[0][1]["max_new_tokens"] for session in sessions] == [5, 6]


@pytest.mark.parametrize("command", ["run", "chat", "serve"])
def test_a_model_is_compiled_first(
    edgec_in_process: Edgec,
    sessions: list[Any],
    hand_made: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    calls = []

    def compile(asker: str, request: CompileRequest, *, quiet: bool) -> Any:
        calls.append((asker, request))
        return hand_made

    monkeypatch.setattr("edgec.cli.compile.compile_with_progress", compile)
    monkeypatch.setattr("edgec.runtime.server.main.serve", lambda *_: None)
    prompt = ["-p", "a"] if command == "run" else []
    done = edgec_in_process(command, "org/model", *prompt, "--offline")
    assert done.code == 0, done.stderr
    ((asker, request),) = calls
    assert asker == f"edgec {command} with a model"
    assert (request.model, request.target, request.offline) == ("org/model", "cpu", True)
    assert command == "serve" or sessions[0].model.artifact is hand_made


@pytest.mark.parametrize("command", ["run", "chat"])
def test_a_pinned_artifact(
    edgec_in_process: Edgec, sessions: list[Any], hand_made: Artifact, command: str
) -> None:
    """The same flag in `serve` and `bench` is given to the same `Artifact.open`."""
    prompt = ["-p", "a"] if command == "run" else []
    done = edgec_in_process(command, hand_made.path, *prompt, "--expect", hand_made.sha256)
    assert (done.code, len(sessions)) == (0, 1), done.stderr
    weights = hand_made.path / "weights.irpa"
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    for expect, says in {
        hand_made.sha256: "weights.irpa differs from its SHA-256",
        "sha256:" + "0" * 64: f"is {hand_made.sha256}, not the sha256:0000",
        "0" * 64: "must be sha256: and 64 hexadecimal digits",
    }.items():
        done = edgec_in_process(command, hand_made.path, *prompt, "--expect", expect)
        assert (done.code, len(sessions)) == (2, 1)
        assert says in done.stderr
    done = edgec_in_process(command, "org/model", *prompt, "--expect", hand_made.sha256)
    assert done.code == 2
    assert "--expect: is for an artifact, and org/model is a model" in done.stderr


@pytest.mark.parametrize("command", ["serve", "bench"])
def test_others_that_take_a_pin(edgec_in_process: Edgec, hand_made: Artifact, command: str) -> None:
    done = edgec_in_process(command, hand_made.path, "--expect", "sha256:" + "0" * 64)
    assert done.code == 2
    assert f"is {hand_made.sha256}, not the sha256:0000" in done.stderr


def test_artifact_or_model(hand_made: Artifact, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    assert is_artifact(str(hand_made.path))
    assert is_artifact("not-there.edgec")
    assert is_artifact(str(tmp_path))
    assert not is_artifact(str(tmp_path / "hf"))
    assert not is_artifact("org/model")
    assert not is_artifact("preset:qwen3-0.6b")
