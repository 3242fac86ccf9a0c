"""`edgec serve`: an OpenAI-compatible server."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from edgec.cli.extra import require_serve
from edgec.cli.flags import with_groups
from edgec.cli.generate import ModelOrArtifact, open_artifact
from edgec.cli.options import Place, Verbose
from edgec.errors import InputError
from edgec.options import SourceOptions

__all__ = ["parse_bytes", "serve"]


@with_groups
def serve(
    model: ModelOrArtifact,
    *,
    host: Annotated[
        str, typer.Option("--host", envvar="EDGEC_HOST", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", envvar="EDGEC_PORT", help="Port; 0 takes a free one.")
    ] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key", envvar="EDGEC_API_KEY", help="Key that clients must send; can be repeated."
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host", metavar="NAME",
            help="Name that clients may call this server; can be repeated.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin", metavar="ORIGIN",
            help="Web page that may use this server, or *; can be repeated.",
        ),
    ] = None,
    share_cache: Annotated[
        bool,
        typer.Option("--share-cache", help="Reuse prompts across API keys and users."),
    ] = False,
    alias: Annotated[
        str | None, typer.Option("--alias", envvar="EDGEC_ALIAS", help="The model's name.")
    ] = None,
    place: Place,
    source: SourceOptions,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", envvar="EDGEC_MEMORY", metavar="BYTES",
            help="State of all sequences, such as 512M; default: of 8 sequences.",
        ),
    ] = None,
    ttl: Annotated[
        float,
        typer.Option("--ttl", envvar="EDGEC_TTL", help="Seconds to keep a sequence for reuse."),
    ] = 600.0,
    max_queue: Annotated[
        int, typer.Option("--max-queue", envvar="EDGEC_MAX_QUEUE", help="Requests that may wait.")
    ] = 64,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Seconds for one generation; default: any.")
    ] = None,
    max_body: Annotated[
        str | None,
        typer.Option(
            "--max-body", metavar="BYTES",
            help="Largest request body; default: 512K, and 64 bytes for each token of the context.",
        ),
    ] = None,
    max_connections: Annotated[
        int, typer.Option("--max-connections", help="Connections that may be open.")
    ] = 512,
    client_timeout: Annotated[
        float,
        typer.Option("--client-timeout", help="Seconds a client may take to send or to read."),
    ] = 30.0,
    template_timeout: Annotated[
        float, typer.Option("--template-timeout", help="Seconds for the chat template.")
    ] = 5.0,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse fields that are otherwise passed over."),
    ] = False,
    shutdown_timeout: Annotated[
        float, typer.Option("--shutdown-timeout", help="Seconds for answers to end on SIGTERM.")
    ] = 30.0,
    verbose: Verbose = False,
) -> None:  # fmt: skip
    """Serve a model over HTTP with OpenAI's interface, and a chat page at /."""
    require_serve("edgec serve")
    opened = open_artifact("edgec serve", model, place, source)
    from edgec.runtime.engine import Engine
    from edgec.runtime.server.main import serve as run_server
    from edgec.runtime.server.options import ServerOptions

    options = ServerOptions(
        host=host,
        port=port,
        api_keys=tuple(api_key or ()),
        allowed_hosts=tuple(allowed_host or ()),
        cors_origins=tuple(cors_origin or ()),
        share_cache=share_cache,
        alias=alias,
        timeout=timeout,
        max_body=None if max_body is None else parse_bytes("--max-body", max_body),
        max_connections=max_connections,
        client_timeout=client_timeout,
        template_timeout=template_timeout,
        strict=strict,
        shutdown_timeout=shutdown_timeout,
    )
    budget = None if memory is None else parse_bytes("--memory", memory)

    def load() -> Engine:
        return Engine(
            opened, place.device, place.threads, memory=budget, ttl=ttl, max_queue=max_queue
        )

    run_server(load, options)


_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def parse_bytes(flag: str, text: str) -> int:
    """A number of bytes, with K, M or G for powers of 1024.

    Raises:
        InputError: not of that form.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]?)(?:i?b)?", text.strip().lower())
    if found is None or len(found[1]) > 15:
        raise InputError(f"{flag} {text}: must be bytes, such as 2000000, 512M or 1.5G")
    return int(float(found[1]) * _UNITS[found[2]])
