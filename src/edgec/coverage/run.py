"""Many families: each in a process of its own, with bounds on its memory and time."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from edgec.coverage.result import FAILS, Result, Results, sources

__all__ = ["MEMORY", "TIMEOUT", "run"]

MEMORY = 12 << 30
"""Bytes of address space for each process, of which a tiny model touches a tenth."""
TIMEOUT = 900.0
"""Seconds that a family may take: many times what it needs on a machine that is not busy."""

_PRELOAD = ["torch", "transformers", "iree.turbine.aot", "iree.compiler.ir", "edgec.coverage.check"]


@dataclass(frozen=True)
class _Job:
    family: str
    process: Any
    started: float


def run(
    families: Sequence[str],
    results: Results,
    *,
    target: str = "cpu",
    jobs: int = 1,
    fresh: bool = False,
    report: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Checks families, those left out whose result of the same code is already kept.

    Args:
        families: Model types of transformers.
        results: Where results are kept; each is written as soon as it is known.
        target: As for `edgec.compile`.
        jobs: Processes at a time.
        fresh: Check all, whatever is kept.
        report: Told of each result as it comes, the kept ones first.

    Returns:
        A result for each family, in their order.
    """
    found: dict[str, Result] = {}
    for family in families:
        kept = None if fresh else results.read(family, target)
        if kept is not None and kept.sources == sources():
            found[family] = kept
            report(kept)
    waiting = [family for family in families if family not in found]
    # Forked from a server that has imported what takes seconds to import, and done nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    running: dict[Any, _Job] = {}  # by the connection that its result comes through
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                receiver, sender = context.Pipe(duplex=False)
                family = waiting.pop(0)
                process = context.Process(target=_work, args=(family, target, sender))
                process.start()
                sender.close()
                running[receiver] = _Job(family, process, time.monotonic())
            for receiver in [*wait(list(running), timeout=1.0), *_late(running)]:
                job = running.pop(receiver)
                result = _result(job, receiver, target)
                results.write(result)
                found[job.family] = result
                report(result)
    finally:
        for job in running.values():
            _kill(job)
    return [found[family] for family in families]


def _late(running: dict[Any, _Job]) -> list[Any]:
    now = time.monotonic()
    return [r for r, job in running.items() if now - job.started > TIMEOUT and not r.poll()]


def _result(job: _Job, receiver: Connection, target: str) -> Result:
    """The output of a process, or how it ended without any."""
    seconds = time.monotonic() - job.started
    try:
        if receiver.poll():
            result: Result = receiver.recv()
            job.process.join()
            return result
        _kill(job)
        stage, message = "time", f"took more than {TIMEOUT:.0f} s"
    except EOFError:
        job.process.join()
        code = job.process.exitcode
        stage, message = "process", f"ended with {'signal' if code < 0 else 'code'} {abs(code)}"
    finally:
        receiver.close()
    job.process.join()
    return Result(
        job.family, target, FAILS, stage, message, seconds=round(seconds, 1), sources=sources()
    )


def _kill(job: _Job) -> None:
    """Ends a process and the compiler that it may have started."""
    with suppress(ProcessLookupError):
        os.killpg(job.process.pid, signal.SIGKILL)
    job.process.kill()  # it may not have made its group yet
    job.process.join()


def _work(family: str, target: str, sender: Connection) -> None:
    """In the process of a family."""
    import logging
    import warnings

    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(silent, stream.fileno())
    import torch

    from edgec.coverage.check import check

    torch.set_num_threads(1)
    sender.send(check(family, target))
    sender.close()
