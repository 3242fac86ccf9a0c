"""Errors that edgec raises on purpose, and the exit code each has on the command line."""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "CompileError",
    "DeviceError",
    "EdgecError",
    "EngineClosed",
    "InputError",
    "ModelError",
    "QueueFull",
    "RequestTimeout",
    "shortened",
]


LONGEST = 2000
"""Characters of a message: what a file of strangers puts into it may be megabytes."""


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text, or of a long one the beginning and the end."""
    if len(text) <= longest:
        return text
    head = longest * 3 // 4
    return f"{text[:head]} … {text[head - longest :]}"


class EdgecError(Exception):
    """A failure that edgec can explain: what went wrong, and what to do about it.

    Args:
        what: One sentence that names the thing and the place ("model 'x': no config.json").
        remedy: What the user can do; empty when nothing is known to help.
    """

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        what, remedy = shortened(what), shortened(remedy)
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} ({self.remedy})" if self.remedy else self.what


class InputError(EdgecError):
    """The user asked for something that cannot be: a bad option, path, model or value."""

    exit_code = 2


class ModelError(InputError):
    """A model that cannot be found, read or supported."""


class ArtifactError(InputError):
    """A compiled artifact that is missing, damaged, foreign, or made by another version."""


class DeviceError(EdgecError):
    """A device that is absent, does not fit the artifact, or failed."""


class CompileError(EdgecError):
    """A compile step failed for a reason that is not the user's input."""


class QueueFull(EdgecError):
    """An engine has as many requests waiting as it takes; one may be admitted later."""


class RequestTimeout(EdgecError):
    """A request was not done within its time."""


class EngineClosed(EdgecError):
    """An engine that was closed, or is closing, takes no requests."""
