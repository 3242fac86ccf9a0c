"""The server's options."""

from __future__ import annotations

from dataclasses import dataclass

from edgec.errors import InputError

__all__ = ["ServerOptions"]


@dataclass(frozen=True)
class ServerOptions:
    """How to serve.

    Args:
        host: Address to listen on; only this machine reaches the default.
        port: TCP port; 0 takes a free one.
        api_keys: Clients must send one of them, if there are any.
        allowed_hosts: Names by which clients may call this server, beside those of this machine.
        cors_origins: Pages of other servers that may use this one, such as
            `https://example.org`; `*` for all.
        share_cache: Whether prompts of one key or user may be reused for another's.
        alias: The model's name to clients; None: the artifact's.
        timeout: Seconds after which a generation ends with what it has; None: never.
        max_body: Bytes of the largest request body; None: 512 KiB and 64 for each token of the
            context.
        max_connections: How many connections there may be; fewer where the system allows the
            process fewer open files.
        client_timeout: Seconds that a client may take to send the head of a request, its body,
            or to take a piece of the answer.
        template_timeout: Seconds that the chat template may take.
        strict: Refuse fields that are otherwise passed over, and other models' names.
        shutdown_timeout: Seconds that running answers have to end after a signal to stop.

    Raises:
        InputError: a value is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    share_cache: bool = False
    alias: str | None = None
    timeout: float | None = None
    max_body: int | None = None
    max_connections: int = 512
    client_timeout: float = 30.0
    template_timeout: float = 5.0
    strict: bool = False
    shutdown_timeout: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"--port {self.port}: must be from 0 to 65535")
        if not all(key and key.isascii() and key == key.strip() for key in self.api_keys):
            raise InputError("--api-key: must be ASCII text that is not empty, without spaces")
        for name in (
            "timeout",
            "max_body",
            "max_connections",
            "client_timeout",
            "template_timeout",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be above 0")
        if self.shutdown_timeout < 0:
            raise InputError(f"--shutdown-timeout {self.shutdown_timeout}: must be at least 0")
