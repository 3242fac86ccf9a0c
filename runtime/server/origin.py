"""The names of this server and the other web pages that may be used to reach it.

A web page can make a browser send requests here: through a name of its own that resolves to this
machine (DNS rebinding), or directly. The headers `Host` and `Origin` give it away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from edgec.runtime.server.errors import ApiError
from edgec.runtime.server.options import ServerOptions

__all__ = ["check_host", "check_origin", "cors_headers", "preflight_headers"]

Headers = Mapping[bytes, bytes]
PORTS = {"http": ":80", "https": ":443"}


def check_host(options: ServerOptions, headers: Headers) -> None:
    """Refuses a request for a name that is not this server's.

    A server for this machine alone takes names of this machine and `--allowed-host`. A server for
    others takes any name, unless `--allowed-host` says which. An address is no name: it is taken.

    Raises:
        ApiError: 403.
    """
    if b"host" not in headers or (not options.allowed_hosts and not _is_local(options.host)):
        return
    name = _name(headers[b"host"].decode("latin-1"))
    allowed = {_name(each) for each in options.allowed_hosts}
    if not (_is_address(name) or _is_local(name) or name in allowed or "*" in allowed):
        raise ApiError(
            403, f"this server does not go by the name of {name!r}: --allowed-host lets it",
            code="host_not_allowed",
        )  # fmt: skip


def check_origin(options: ServerOptions, headers: Headers) -> None:
    """Refuses a request of another web page, unless `--cors-origin` lets it.

    Raises:
        ApiError: 403.
    """
    origin = headers.get(b"origin", b"").decode("latin-1")
    if not origin or _is_same(origin, headers) or _is_let(options, origin):
        return
    raise ApiError(
        403, f"a page of {origin!r} may not use this server: --cors-origin lets it",
        code="origin_not_allowed",
    )  # fmt: skip


def cors_headers(options: ServerOptions, headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers that tell a browser that the page of another origin may read the answer."""
    if not options.cors_origins:
        return []
    origin = headers.get(b"origin", b"")
    vary = [(b"vary", b"Origin")]
    if not origin or not _is_let(options, origin.decode("latin-1")):
        return vary
    exposed = b"x-request-id, retry-after"
    return [
        *vary,
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", exposed),
    ]


def preflight_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers for a browser that asks whether it may send a request (OPTIONS)."""
    methods = b"GET, HEAD, POST, OPTIONS"
    if b"access-control-request-method" not in headers:
        return [(b"allow", methods)]
    wanted = headers.get(b"access-control-request-headers", b"authorization, content-type")
    answer = [
        (b"access-control-allow-methods", methods),
        (b"access-control-allow-headers", wanted),
        (b"access-control-max-age", b"600"),
    ]
    if headers.get(b"access-control-request-private-network") == b"true":
        answer.append((b"access-control-allow-private-network", b"true"))
    return answer


def _is_let(options: ServerOptions, origin: str) -> bool:
    return "*" in options.cors_origins or origin.lower() in {
        each.lower().rstrip("/") for each in options.cors_origins
    }


def _is_same(origin: str, headers: Headers) -> bool:
    """Whether a page came from this server: behind a proxy the scheme may be another."""
    try:
        scheme, place, *_ = urlsplit(origin.lower())
    except ValueError:
        return False
    default = PORTS.get(scheme, "")
    host = headers.get(b"host", b"").decode("latin-1").lower()
    return bool(place) and place.removesuffix(default) == host.removesuffix(default)


def _name(host: str) -> str:
    """A name without port, brackets, and the dot at its end, in small letters."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    if host.count(":") == 1:
        host = host.partition(":")[0]
    return host.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_local(name: str) -> bool:
    """Whether a name or address means this machine to itself."""
    if _is_address(name):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")
