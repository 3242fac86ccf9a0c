"""`edgec run`: one prompt, one answer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.experts import check_counts, expert_table
from edgec.cli.flags import with_groups
from edgec.cli.generate import ModelOrArtifact, open_session, print_stream, timing_line
from edgec.cli.options import Json, Place, Verbose
from edgec.cli.sampling import Sampling, SystemPrompt
from edgec.cli.streams import checked_text, read_stdin, read_text
from edgec.cli.text import print_json, stderr
from edgec.errors import InputError
from edgec.options import SourceOptions

__all__ = ["Stats", "run"]


class Stats(StrEnum):
    """The choices of `--stats`."""

    timings = "timings"
    experts = "experts"
    none = "none"


@with_groups
def run(
    model: ModelOrArtifact = "",
    *,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The prompt; - reads it from stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the prompt from it.")
    ] = None,
    system_prompt: SystemPrompt = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat-template",
            show_default=False,
            help="Ask the prompt as a chat message, or continue it as plain text. "
            "Plain is the default unless there is a system prompt.",
        ),
    ] = None,
    sampling: Sampling,
    place: Place,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", help="List the devices and exit.")
    ] = False,
    source: SourceOptions,
    stats: Annotated[
        Stats,
        typer.Option("--stats", help="On stderr after the text: timings, or load of the experts."),
    ] = Stats.timings,
    no_stats: Annotated[bool, typer.Option("--no-stats", help="The same as --stats none.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Generate text from a prompt, streamed to stdout."""
    if list_devices:
        from edgec.cli.doctor import print_devices

        print_devices()
        return
    if not model:
        raise InputError("no model or artifact given", "edgec run ARTIFACT -p PROMPT")
    options = sampling.given()
    question = _ask(_read_prompt(prompt, file), system_prompt, chat)
    session = open_session("edgec run", model, place, source, quiet=json)
    if json:
        print_json(session.generate(question, **options).to_dict())
        return
    if stats is Stats.experts:
        check_counts(session)
    *_, last = print_stream(session.stream(question, **options))
    if stats is not Stats.none and not no_stats and last.result:
        stderr().print(f"[dim]{timing_line(last.result)}[/]", soft_wrap=True)
        if stats is Stats.experts:
            stderr().print(expert_table(session.sequence.expert_counts()))


def _read_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt's text from the flag, the file or stdin."""
    if prompt is not None and file is not None:
        raise InputError("both --prompt and --file are given", "give one of them")
    if file is not None:
        return read_text(file, f"--file {file}")
    if prompt is None:
        raise InputError("no prompt", "give -p TEXT, -p - for stdin, or -f FILE")
    return read_stdin() if prompt == "-" else checked_text(prompt, "--prompt")


def _ask(text: str, system_prompt: str | None, chat: bool | None) -> Any:
    """Plain text to go on from, or the messages of a chat."""
    if chat is False and system_prompt is not None:
        raise InputError("--system-prompt needs the chat template", "drop --no-chat-template")
    if not text.strip():
        raise InputError("the prompt is empty", "give -p TEXT, -p - for stdin, or -f FILE")
    if not chat and system_prompt is None:
        return text
    system = []
    if system_prompt is not None:
        content = checked_text(system_prompt, "--system-prompt")
        system = [{"role": "system", "content": content}]
    return [*system, {"role": "user", "content": text}]
