"""Runs one fuzzed case in a process of its own, with limits, and says how it ended.

A case that kills its process, fills the memory or hangs is an answer, not the end of the tests.
"""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import pickle
import random
import resource
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from edgec.errors import EdgecError

__all__ = ["Outcome", "mutate_bytes", "mutate_json", "run_case"]

_EXTREMES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 255, 2**31, 2**32 - 1, 2**62, 2**64, 2**70, 10**400,
    -(2**63), 0.5, 1e-320, 1e308, "", "x", "\x00", "../x", "/etc/passwd", "a" * 5000, "\ud800",
    [], [1], [[]], {}, {"model": 1}, [0] * 100,
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        end: `returned`; `refused`, by an EdgecError; `raised`, by any other exception; `died`, by
            a signal or an exit; `hung`, past its time.
        detail: The message, the traceback or the exit code.
        value: What the case returned.
        peak: Peak resident memory of the process in bytes; 0 where it did not come back.
    """

    end: str
    detail: str = ""
    value: Any = None
    peak: int = 0


def run_case(
    case: Callable[..., Any],
    *arguments: Any,
    seconds: float = 20,
    memory: int | None = None,
    preload: tuple[str, ...] = (),
) -> Outcome:
    """Calls `case(*arguments)` in a new process.

    Args:
        case: A function of a module; it and what it takes and returns are pickled.
        seconds: How long it may take.
        memory: Bytes of address space that it may have.
        preload: Modules that are imported once, in the process that all such cases are forked from.
    """
    server = _server((case.__module__, *preload))
    server.send((seconds, memory))
    server.send_bytes(pickle.dumps((case, arguments)))
    outcome: Outcome = server.recv()
    return outcome


@functools.cache
def _server(preload: tuple[str, ...]) -> Connection:
    """A process with these modules: the forkserver of Python keeps those of its first user."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(theirs, preload), daemon=True).start()
    theirs.close()
    return ours


def _serve(pipe: Connection, preload: tuple[str, ...]) -> None:
    for module in preload:
        importlib.import_module(module)
    while True:
        try:
            (seconds, memory), call = pipe.recv(), pipe.recv_bytes()
        except EOFError:
            return
        pipe.send(_fork(call, seconds, memory))


def _fork(call: bytes, seconds: float, memory: int | None) -> Outcome:
    reader, writer = multiprocessing.Pipe(duplex=False)
    if (child := os.fork()) == 0:
        try:
            writer.send(_work(call, memory))
        finally:
            os._exit(1)
    writer.close()
    try:
        if not reader.poll(seconds):
            return Outcome("hung", f"longer than {seconds:g} s")
        outcome: Outcome = reader.recv()
        return outcome
    except EOFError:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        child = 0
        return Outcome("died", f"exit code {code}")
    finally:
        reader.close()
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _work(call: bytes, memory: int | None) -> Outcome:
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        case, arguments = pickle.loads(call)
        end, detail, value = "returned", "", case(*arguments)
    except EdgecError as error:
        end, detail, value = "refused", str(error), None
    except BaseException:
        end, detail, value = "raised", traceback.format_exc(), None
    return Outcome(end, detail, value, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def mutate_bytes(random: random.Random, data: bytes) -> bytes:
    """`data` with one to three bits flipped, bytes replaced, or a stretch cut out or doubled."""
    mutant = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(mutant) or 1)
        length = min(random.choice((1, 2, 4, 8, 64)), len(mutant) - at)
        match random.randrange(5):
            case 0 if mutant:
                mutant[at] ^= 1 << random.randrange(8)
            case 1:
                mutant[at : at + length] = random.choice((b"\x00", b"\xff")) * length
            case 2:
                mutant[at : at + length] = random.randbytes(length)
            case 3:
                del mutant[at : at + length]
            case _:
                mutant[at:at] = mutant[at : at + length]
    return bytes(mutant) if random.random() < 0.95 else bytes(mutant[: len(mutant) // 2])


def mutate_json(random: random.Random, value: Any) -> Any:
    """A copy of a JSON value in which one place is gone, renamed or something else."""
    copy = json.loads(json.dumps(value))
    places = list(_places(copy))
    if not places:
        return random.choice(_EXTREMES)
    holder, key = random.choice(places)
    match random.randrange(4):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key)
        case 2 if isinstance(holder[key], int) and not isinstance(holder[key], bool):
            holder[key] = random.choice((holder[key] + 1, holder[key] * 2, -holder[key], 2**40))
        case _:
            holder[key] = random.choice(_EXTREMES)
    return copy


def _places(value: Any) -> Any:
    """All (holder, key) pairs of a JSON value."""
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield value, key
            yield from _places(value[key])
