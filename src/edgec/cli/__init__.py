"""The command line: a file for each command, whose work is done by a function elsewhere.

`main` turns failures into what a user can read: one line on stderr and an exit code (2 for bad
input, 1 for a failure, 130 when interrupted). Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import edgec
from edgec.cli.options import state
from edgec.cli.streams import open_streams
from edgec.cli.text import printable
from edgec.errors import EdgecError, shortened

if TYPE_CHECKING:
    from typer import Typer

__all__ = ["COMMANDS", "build_app", "execute", "main"]

COMMANDS = {
    "compile": "edgec.cli.compile:compile_model",
    "run": "edgec.cli.run:run",
    "chat": "edgec.cli.chat:chat",
    "serve": "edgec.cli.serve:serve",
    "bench": "edgec.cli.bench:bench_artifact",
    "bench roofline": "edgec.cli.measure:roofline",
    "bench ablation": "edgec.cli.measure:ablation",
    "eval": "edgec.cli.evaluate:app",
    "inspect": "edgec.cli.inspect:inspect",
    "models": "edgec.cli.models:app",
    "doctor": "edgec.cli.doctor:doctor",
}
"""Name → where the command is: a function, or a Typer with commands of its own.

A name of two words is a command beside the one of its first word."""


def main() -> NoReturn:
    """The `edgec` program."""
    open_streams()
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    if list(arguments) == ["--version"]:  # before typer is imported
        print(f"edgec {edgec.__version__}")
        return 0
    state.reset()
    if not state.verbose and not sys.warnoptions:
        warnings.simplefilter("ignore")
    restore = _terminate_cleanly()
    try:
        result = build_app()(args=list(arguments), prog_name="edgec", standalone_mode=False)
        if result == 130:  # typer has turned Ctrl-C into this
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 1
    except BaseException as error:
        return _explain(error)
    finally:
        restore()


def build_app() -> Typer:
    """The Typer application with all commands."""
    import typer
    from typer.core import TyperGroup

    class Commands(TyperGroup):
        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            both = " ".join(args[:2])
            return super().resolve_command(
                ctx, [both, *args[2:]] if both in self.commands else args
            )

    app = typer.Typer(
        cls=Commands,
        help="Compile language models ahead of time; run them on a device.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def edgec_command(
        version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    ) -> None:
        if version:
            print(f"edgec {edgec.__version__}")
            raise typer.Exit

    for name, where in COMMANDS.items():
        module, attribute = where.split(":")
        command = getattr(import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _explain(error: BaseException) -> int:
    """Prints what went wrong as one line and returns the exit code."""
    import typer

    if state.verbose and not isinstance(error, EdgecError | typer.Abort):
        traceback.print_exception(error)
    if isinstance(error, EdgecError):
        _say(error.what, error.remedy)
        if state.verbose and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        print("edgec: interrupted", file=sys.stderr)
        return 130
    if usage := getattr(error, "format_message", None):  # typer's own: a wrong option or value
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "edgec"
        _say(usage(), f"see {path} --help")
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, OSError) and error.strerror:
        _say(": ".join([str(error.filename)] * bool(error.filename) + [error.strerror]))
        return 1
    what = f"{type(error).__name__}: {error}".partition("\n")[0]
    _say(what, "this is a bug; run again with --verbose to see where")
    return 1


def _say(what: str, remedy: str = "") -> None:
    line = " ".join(shortened(what).split()) + (f" ({remedy})" if remedy else "")
    print(f"edgec: error: {printable(line)}", file=sys.stderr)


def _terminate_cleanly() -> Callable[[], None]:
    """Makes SIGTERM unwind like Ctrl-C, so that temporary files go; returns the way back."""

    def stop(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        return lambda: None

    def restore() -> None:
        signal.signal(signal.SIGTERM, before)

    return restore
