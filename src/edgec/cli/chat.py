"""`edgec chat`: a conversation in the terminal, each turn computing only what is new."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli.flags import with_groups
from edgec.cli.generate import ModelOrArtifact, open_session, print_stream, timing_line
from edgec.cli.options import Place, Verbose
from edgec.cli.questions import History, Questions, history_file
from edgec.cli.sampling import Sampling, SystemPrompt, parse_setting
from edgec.cli.streams import checked_text
from edgec.cli.text import printable, stderr
from edgec.errors import DeviceError, EdgecError, shortened
from edgec.options import SourceOptions

if TYPE_CHECKING:
    from edgec.runtime import GenerationResult, Session

__all__ = ["Conversation", "chat"]

HELP = '''\
/help            this text
/exit            leave (or Ctrl-D)
/reset           forget the conversation
/stats           tokens and timings of the last answer
/set key=value   change a generation option; /set alone shows them
//...            ask what begins with a slash: //help asks "/help"
"""              begins a question of several lines, and ends it
\\                at the end of a line goes on in the next; so does Alt-Enter
Ctrl-C stops an answer.'''

COMMANDS = ("/help", "/?", "/exit", "/quit", "/bye", "/reset", "/stats", "/set")


@dataclass
class Conversation:
    """The messages so far and the options of the next answer.

    `template` off joins the turns as plain text, for models without a chat template.
    """

    session: Session
    system_prompt: str | None = None
    template: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    last: GenerationResult | None = None
    wrap: bool = False
    """Whether answers go to a terminal, where words should stay whole."""

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.session.reset()
        system = self.system_prompt
        self.messages = [] if system is None else [{"role": "system", "content": system}]
        self.last = None

    def answer(self, text: str) -> None:
        """Streams the answer to a user's turn; a turn that fails is taken back."""
        turn = [*self.messages, {"role": "user", "content": text}]
        prompt = turn if self.template else "\n".join(m["content"] for m in turn)
        said: list[str] = []
        try:
            for chunk in print_stream(self.session.stream(prompt, **self.options), self.wrap):
                said.append(chunk.text)
                self.last = chunk.result
        except KeyboardInterrupt:
            stderr().print("[dim](stopped)[/]")
        except DeviceError:
            # The next prompt is the conversation from its beginning, so nothing is lost.
            self.session.reset()
            raise
        self.messages = [*turn, {"role": "assistant", "content": "".join(said)}]

    def command(self, line: str) -> bool:
        """Runs a /command; False when it ends the conversation."""
        name, _, rest = line.partition(" ")
        if name in ("/exit", "/quit", "/bye"):
            return False
        if name in ("/help", "/?"):
            print(HELP)
        elif name == "/reset":
            self.reset()
            print("The conversation starts again.")
        elif name == "/stats":
            print(self.stats())
        elif name == "/set":
            print(self.set(rest.strip()))
        else:
            print(f"{name}: no such command; /help lists them, and /{name} asks it")
        return True

    def set(self, text: str) -> str:
        """Changes an option, if `text` has one; returns all options in force."""
        changed = self.options | (parse_setting(text) if text else {})
        in_force = self.session.model.defaults.updated(changed)
        self.options = changed
        return "\n".join(f"{name}={value}" for name, value in vars(in_force).items())

    def stats(self) -> str:
        """Timings of the last answer, and how much of its prompt was in the state already."""
        if self.last is None:
            return "No answer yet, or the last one was stopped."
        usage = self.last.usage
        used = usage.prompt_tokens + usage.completion_tokens
        return (
            f"{timing_line(self.last)}\n"
            f"context {used} of {self.session.model.artifact.manifest.model.context} tokens"
            f" · cached {usage.cached_tokens} of {usage.prompt_tokens} prompt tokens"
        )


@with_groups
def chat(
    model: ModelOrArtifact,
    *,
    system_prompt: SystemPrompt = None,
    no_chat_template: Annotated[
        bool, typer.Option("--no-chat-template", help="Join the turns as plain text.")
    ] = False,
    sampling: Sampling,
    place: Place,
    source: SourceOptions,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Do not keep questions for the next start.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Talk with a model. /help lists the commands."""
    if system_prompt is not None:
        checked_text(system_prompt, "--system-prompt")
    options = sampling.given()
    session = open_session("edgec chat", model, place, source)
    file = None if no_history else history_file()
    talk(
        Conversation(session, system_prompt, not no_chat_template, options),
        History(file) if file else None,
    )


def talk(conversation: Conversation, history: History | None = None) -> None:
    """Reads turns until /exit or the end of the input. An error ends a turn, not the program."""
    questions = Questions(history)
    conversation.wrap = sys.stdout.isatty()
    if questions.at_terminal:
        stderr().print("[dim]/help lists the commands, Ctrl-D leaves[/]")
        if history is not None and history.trouble:
            stderr().print(f"questions are not kept: {history.trouble}", markup=False, style="dim")
    while True:
        try:
            line = questions.next()
        except EOFError:
            break
        except KeyboardInterrupt:
            stderr().print("\n[dim](/exit or Ctrl-D leaves)[/]")
            continue
        except EdgecError as error:
            _report(error)
            continue
        try:
            if _is_command(line):
                if not conversation.command(line):
                    break
            elif line:
                conversation.answer(line[1:] if line.startswith("//") else line)
        except KeyboardInterrupt:
            stderr().print("[dim](stopped)[/]")
        except EdgecError as error:
            _report(error)


def _report(error: EdgecError) -> None:
    message = printable(shortened(str(error)))
    stderr().print(f"edgec: error: {message}", markup=False, soft_wrap=True)


def _is_command(line: str) -> bool:
    """Whether a line is a command, or a word that can only be a wrong one; a path is a question."""
    name = line.partition(" ")[0]
    return "\n" not in line and (name in COMMANDS or re.fullmatch(r"/[A-Za-z?]+", name) is not None)
