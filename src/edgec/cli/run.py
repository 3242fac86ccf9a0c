"""`edgec run`: one prompt, one answer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli import sampling
from edgec.cli.experts import check_counts, expert_table
from edgec.cli.generate import open_session, print_stream, timing_line
from edgec.cli.options import (
    CacheDir,
    Device,
    Expect,
    Json,
    Offline,
    Revision,
    Threads,
    TrustRemoteCode,
    Verbose,
)
from edgec.cli.streams import checked_text, read_stdin, read_text
from edgec.cli.text import print_json, stderr
from edgec.errors import InputError

__all__ = ["Stats", "run"]


class Stats(StrEnum):
    """The choices of `--stats`."""

    timings = "timings"
    experts = "experts"
    none = "none"


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_ARTIFACT",
            show_default=False,
            help="Artifact folder, or a model, which is compiled into the cache first.",
        ),
    ] = "",
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The prompt; - reads it from stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the prompt from it.")
    ] = None,
    system_prompt: sampling.SystemPrompt = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat-template",
            show_default=False,
            help="Ask the prompt as a chat message, or continue it as plain text. "
            "Plain is the default unless there is a system prompt.",
        ),
    ] = None,
    max_new_tokens: sampling.MaxNewTokens = None,
    temperature: sampling.Temperature = None,
    top_k: sampling.TopK = None,
    top_p: sampling.TopP = None,
    min_p: sampling.MinP = None,
    repetition_penalty: sampling.RepetitionPenalty = None,
    seed: sampling.Seed = None,
    stop: sampling.Stop = None,
    ignore_eos: sampling.IgnoreEos = False,
    chat_template_kwargs: sampling.ChatTemplateKwargs = None,
    device: Device = None,
    threads: Threads = None,
    expect: Expect = None,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", help="List the devices and exit.")
    ] = False,
    revision: Revision = None,
    offline: Offline = False,
    trust_remote_code: TrustRemoteCode = False,
    cache_dir: CacheDir = None,
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
    options = sampling.generation(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop,
        ignore_eos=ignore_eos,
        chat_template_kwargs=chat_template_kwargs,
    )
    question = _ask(_read_prompt(prompt, file), system_prompt, chat)
    session = open_session(
        "edgec run",
        model,
        device=device,
        threads=threads,
        expect=expect,
        quiet=json,
        revision=revision,
        offline=offline,
        trust_remote_code=trust_remote_code,
        cache_dir=cache_dir,
    )
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
