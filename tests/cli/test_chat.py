"""`edgec chat` without a terminal, on a session that answers without a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgec.artifact import Artifact
from edgec.cli.sampling import parse_setting
from edgec.errors import EdgecError, InputError

Chat = Callable[..., Any]


@pytest.fixture
def chat(edgec_in_process: Chat, sessions: list[Any], hand_made: Artifact) -> Chat:
    """`chat(*lines, flags=())` types the lines and returns what the program did."""

    def type_lines(*lines: str, flags: tuple[str, ...] = ()) -> Any:
        return edgec_in_process("chat", hand_made.path, *flags, stdin="\n".join(lines) + "\n")

    return type_lines


def test_a_conversation(chat: Chat, sessions: list[Any]) -> None:
    done = chat("hi", "and?", flags=("--system-prompt", "be kind"))
    assert (done.code, done.stdout) == (0, "Hello there\nHello there\n")
    assert sessions[0].asked[1][0] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello there"},
        {"role": "user", "content": "and?"},
    ]


def test_stats_show_follow_up_prefill(chat: Chat) -> None:
    done = chat("/stats", "hi", "and?", "/stats", "/exit", "never asked")
    lines = done.stdout.splitlines()
    assert lines[0] == "No answer yet, or the last one was stopped."
    assert lines[3].startswith("cached 10 tokens · prompt 2 tokens")
    assert lines[4] == "context 14 of 1024 tokens · cached 10 of 12 prompt tokens"
    assert len(lines) == 5


def test_reset(chat: Chat, sessions: list[Any]) -> None:
    before = chat("hi", "/reset", "again")
    assert before.code == 0
    assert sessions[0].asked[1][0] == [{"role": "user", "content": "again"}]
    assert sessions[0].resets == 2


def test_set(chat: Chat, sessions: list[Any]) -> None:
    done = chat("/set temp=0.5", "/set stop=END", "hi", "/set", "/set colour=red")
    assert sessions[0].asked[0][1] == {"temperature": 0.5, "stop_strings": "END"}
    assert "temperature=0.5\ntop_k=50" in done.stdout
    assert "stop_strings=('END',)" in done.stdout
    assert done.stderr.startswith("edgec: error: unknown generation option 'colour'")


def test_a_refused_setting_is_not_kept(chat: Chat, sessions: list[Any]) -> None:
    done = chat("/set top_p=2", "hi")
    assert "top_p=2: must be a number from 0 to 1" in done.stderr
    assert sessions[0].asked[0][1] == {}


def test_help_and_unknown_command(chat: Chat) -> None:
    done = chat("/help", "/frobnicate")
    assert "/set key=value" in done.stdout
    assert "/frobnicate: no such command" in done.stdout


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        (["/etc/passwd explain"], ["/etc/passwd explain"]),
        (["/usr/bin"], ["/usr/bin"]),
        (["/4 of it"], ["/4 of it"]),
        (["//help"], ["/help"]),
        (["// a comment in C"], ["/ a comment in C"]),
        (["/hepl", "hi"], ["hi"]),
        (["one \\", "two\\", "", "three"], ["one \ntwo\n", "three"]),
        (['"""one', "two", 'three"""', "four"], ["one\ntwo\nthree", "four"]),
        (['"""', "/help", "", "two", '"""'], ["/help\n\ntwo"]),
        (['"""one"""'], ["one"]),
        (['"""one', "and the end"], ["one\nand the end"]),
        (["the end\\"], ["the end"]),
        (['say """hi"""'], ['say """hi"""']),
    ],
)
def test_what_is_asked(chat: Chat, sessions: list[Any], typed: list[str], asked: list[str]) -> None:
    """Paths are questions, misspelt commands are not, and questions may have several lines."""
    chat(*typed)
    found = [prompt[-1]["content"] for prompt, _ in sessions[0].asked]
    assert [text.strip() for text in found] == [text.strip() for text in asked]


def test_a_line_that_is_no_text_ends_a_turn_only(chat: Chat, sessions: list[Any]) -> None:
    done = chat("a\udcffb", "/set stop=a\udcffb", "hi")
    assert done.stderr.count("byte 1 is not UTF-8") == 1
    assert "the question: byte 11 is not UTF-8" in done.stderr
    assert [prompt[-1]["content"] for prompt, _ in sessions[0].asked] == ["hi"]


def test_no_history_without_a_terminal(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    chat("hi")
    assert not (tmp_path / "state").exists()


def test_plain_text(chat: Chat, sessions: list[Any]) -> None:
    chat("hi", "more", flags=("--no-chat-template",))
    assert [prompt for prompt, _ in sessions[0].asked] == ["hi", "hi\nHello there\nmore"]


@pytest.mark.parametrize(
    ("error", "kept", "said"),
    [(KeyboardInterrupt(), "Hello", "(stopped)"), (EdgecError("it broke"), None, "it broke")],
)
def test_an_answer_that_ends_early(
    chat: Chat, sessions: list[Any], monkeypatch: pytest.MonkeyPatch, error: BaseException,
    kept: str | None, said: str,
) -> None:  # fmt: skip
    """Ctrl-C keeps what was said; an error takes the turn back. Both go on."""
    import edgec.runtime

    make = edgec.runtime.Session

    def failing(*args: Any, **options: Any) -> Any:
        session: Any = make(*args, **options)
        session.error = error
        return session

    monkeypatch.setattr(edgec.runtime, "Session", failing)
    done = chat("hi", "more")
    assert (done.code, done.stdout) == (0, "Hello\nHello there\n")
    assert said in done.stderr
    answers = [m["content"] for m in sessions[0].asked[1][0] if m["role"] == "assistant"]
    assert answers == ([kept] if kept else [])


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("top_k=3", {"top_k": 3}),
        ("--top-p = 0.5", {"top_p": 0.5}),
        ("temp=0", {"temperature": 0}),
        ("ignore_eos=true", {"ignore_eos": True}),
        ('stop=["a","b"]', {"stop_strings": ["a", "b"]}),
        ("stop=a b", {"stop_strings": "a b"}),
        ("n=9", {"max_new_tokens": 9}),
    ],
)
def test_parse_setting(text: str, options: dict[str, Any]) -> None:
    assert parse_setting(text) == options


@pytest.mark.parametrize("text", ["", "temperature", "=1", "top_k="])
def test_parse_setting_refuses(text: str) -> None:
    with pytest.raises(InputError):
        parse_setting(text)
