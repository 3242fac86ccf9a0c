"""The flags of text generation, and what `Session.generate` is called with for them.

A flag that is not given is not passed on: the model's own generation_config.json then decides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from edgec.cli.streams import checked_text
from edgec.errors import InputError
from edgec.json_files import parse_json

__all__ = ["Sampling", "SystemPrompt", "parse_setting"]

SystemPrompt = Annotated[
    str | None,
    typer.Option("--system-prompt", envvar="EDGEC_SYSTEM_PROMPT", help="System message; a chat."),
]

_ALIASES = {
    "max_tokens": "max_new_tokens",
    "n": "max_new_tokens",
    "repeat_penalty": "repetition_penalty",
    "stop": "stop_strings",
    "temp": "temperature",
}


@dataclass(frozen=True)
class Sampling:
    """The flags of an answer; `run` and `chat` share them."""

    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens", "--max-tokens", "-n", envvar="EDGEC_MAX_NEW_TOKENS", metavar="N",
            help="Stop after N tokens.",
        ),
    ] = None  # fmt: skip
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            "--temp",
            envvar="EDGEC_TEMPERATURE",
            help="0 always takes the best token.",
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", envvar="EDGEC_TOP_K", help="Sample from the K best; 0 is off."),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p", envvar="EDGEC_TOP_P", help="Sample from the best that sum up to P."
        ),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option("--min-p", envvar="EDGEC_MIN_P", help="Drop what is below P times the best."),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            "--repetition-penalty", "--repeat-penalty", envvar="EDGEC_REPETITION_PENALTY",
            help="Above 1: tokens already seen are less likely.",
        ),
    ] = None  # fmt: skip
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", "-s", envvar="EDGEC_SEED", help="The same seed gives the same text."
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="Stop before this text; repeatable."),
    ] = None
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on after the end-of-text token.")
    ] = False
    chat_template_kwargs: Annotated[
        str | None,
        typer.Option(
            "--chat-template-kwargs", metavar="JSON", help="Variables for the chat template."
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """Keyword arguments of `Session.generate` for the flags that were given."""
        changed: dict[str, Any] = {
            "stop": [checked_text(text, "--stop") for text in self.stop or ()] or None,
            "ignore_eos": self.ignore_eos or None,
            "chat_template_kwargs": _parse_object(self.chat_template_kwargs),
        }
        values: dict[str, Any] = vars(self) | changed
        return {_ALIASES.get(n, n): value for n, value in values.items() if value is not None}


def parse_setting(text: str) -> dict[str, Any]:
    """Reads `key=value` of chat's /set, the key spelled as for `generate` or as a flag.

    The value is JSON where it can be, else text; whether it is valid is for `generate` to say.

    Raises:
        InputError: not of that form.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not (key and equals and value):
        raise InputError("/set takes key=value", "for example /set temperature=0.7")
    name = key.lstrip("-").replace("-", "_")
    try:
        parsed = _parsed(value, "/set")
    except ValueError:
        parsed = checked_text(value, "/set")
    return {_ALIASES.get(name, name): parsed}


def _parse_object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = _parsed(text, "--chat-template-kwargs")
    except ValueError as error:
        raise InputError(f"--chat-template-kwargs: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError("--chat-template-kwargs: must be a JSON object", """like '{"a": 1}'""")
    return value


def _parsed(text: str, what: str) -> Any:
    """The value of a JSON text; its escapes must make text too, as half of a pair does not."""
    value = parse_json(text)
    checked_text(json.dumps(value, ensure_ascii=False), what)
    return value
