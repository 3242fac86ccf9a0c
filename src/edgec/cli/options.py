"""Options that several commands share, each with its environment variable."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import Annotated

import typer

__all__ = [
    "Device",
    "Expect",
    "Json",
    "Place",
    "Threads",
    "Verbose",
    "state",
]


@dataclass
class _State:
    """Facts about the command line that `main` needs when it explains an error."""

    verbose: bool = field(default=False)

    def reset(self) -> None:
        self.verbose = os.environ.get("EDGEC_DEBUG", "0") not in ("", "0")


state = _State()


def _set_verbose(value: bool) -> bool:
    if value or state.verbose:
        state.verbose = True
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("edgec").setLevel(logging.DEBUG)
    return value


Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", callback=_set_verbose, is_eager=True,
        help="Log what happens, and show tracebacks.",
    ),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Device = Annotated[
    str | None,
    typer.Option("--device", envvar="EDGEC_DEVICE", help="cpu, vulkan or cuda; default cpu."),
]
Expect = Annotated[
    str | None,
    typer.Option(
        "--expect", envvar="EDGEC_EXPECT", metavar="sha256:…",
        help="Run only this very artifact; edgec inspect prints it.",
    ),
]  # fmt: skip
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", "-t", envvar="EDGEC_THREADS", min=1, help="CPU threads; default all."
    ),
]


@dataclass(frozen=True)
class Place:
    """The device that an artifact runs on, and the artifact that may run."""

    device: Device = None
    threads: Threads = None
    expect: Expect = None
