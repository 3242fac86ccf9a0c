"""Options that several commands share, each with its environment variable."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "CacheDir",
    "Device",
    "Expect",
    "Json",
    "Offline",
    "Revision",
    "Threads",
    "TrustRemoteCode",
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
CacheDir = Annotated[
    Path | None,
    typer.Option("--cache-dir", envvar="EDGEC_CACHE_DIR", help="Folder of compiled models."),
]
Offline = Annotated[
    bool, typer.Option("--offline", envvar="EDGEC_OFFLINE", help="Use downloaded files only.")
]
Revision = Annotated[
    str | None,
    typer.Option("--revision", envvar="EDGEC_REVISION", help="Branch, tag or commit on the hub."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", envvar="EDGEC_TRUST_REMOTE_CODE",
        help="Run modelling code that comes with the model.",
    ),
]  # fmt: skip
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
