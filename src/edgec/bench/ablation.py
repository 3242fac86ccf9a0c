"""The padding ablation: one model compiled in each arm, and prompts of many lengths through all.

Export, weights, lowerings, optimisation level and every other flag are the same in all arms; what
differs is in `arms.py`. Programs run in processes of their own, one at a time, repetition by
repetition: a disturbance meets all arms alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.artifact import Artifact
from edgec.bench.arms import Arm, arms_for
from edgec.bench.machine import Load, describe
from edgec.bench.samples import spread
from edgec.bench.worker import Worker
from edgec.errors import EdgecError, InputError
from edgec.manifest import MANIFEST_NAME
from edgec.options import CompileRequest

if TYPE_CHECKING:
    from edgec.compiler.targets.target import Target

__all__ = ["LENGTHS", "compile_arms", "measure_arms"]

LENGTHS = (1, 31, 32, 33, 47, 100, 127, 128, 129, 512)
"""Prompt lengths of the sweep: those at the edges of a block, short ones, and a long one."""

MULTIPLE = 32
_INDEX = "arms.json"
_SLOW = 4.0
"""An arm whose warm-up takes more seconds than this has one sample."""
_ENOUGH, _MOST = 0.3, 30
"""Short prompts are repeated until every arm has had so many seconds, but no more often."""

Say = Callable[[str], None]


# --- Compiling --------------------------------------------------------------------------------


def compile_arms(
    request: CompileRequest,
    folder: Path,
    say: Say,
    lengths: tuple[int, ...] | None = None,
    names: str | None = None,
) -> None:
    """Compiles the arms of each target into a folder of `folder`, with `arms.json` beside them.

    A later `measure_arms` needs no compiler, and may run on another machine.

    Args:
        request: The model, the targets, and options such as `dtype` and `layers`.
        folder: Keeps the artifacts; equal builds in it are used again.
        say: Told what happens, a line at a time.
        lengths: Prompt lengths in tokens; None for `LENGTHS`, without the longest on llvmpipe.
        names: Some arms only, with semicolons between them.

    Raises:
        InputError: a length or an arm that cannot be.
        ModelError: as from `edgec.compile`.
    """
    for text in request.target.split(","):
        one = dataclasses.replace(request, target=text.strip())
        place = folder / one.target.replace(":", "-")
        _compile_target(one, place, say, lengths or _lengths_for(one.target), names)


def _lengths_for(target: str) -> tuple[int, ...]:
    return LENGTHS[:-1] if "llvmpipe" in target else LENGTHS


def _compile_target(
    request: CompileRequest, folder: Path, say: Say, lengths: tuple[int, ...], names: str | None
) -> None:
    from edgec.compiler import check

    if min(lengths) < 1:
        raise InputError(f"prompt lengths {lengths}: must be at least 1")
    sizes = sorted({MULTIPLE, *(_padded(length) for length in lengths)})
    if sizes[-1] > 4096:
        raise InputError(f"prompt of {max(lengths)} tokens: at most 4096, it is one call")
    request = dataclasses.replace(request, ctx_size=sizes[-1], chunk_size=sizes[-1], force=True)
    (target,) = check(request)
    folder.mkdir(parents=True, exist_ok=True)
    exports = _Exports(request, target, folder)
    entries: list[dict[str, Any]] = []
    for arm in arms_for(target.name, names):
        say(f"{request.target}: compile {arm.name}")
        entry: dict[str, Any] = dataclasses.asdict(arm)
        entries.append(entry)
        path = folder / _slug(arm.name)
        try:
            if arm.program_of:
                source = next(e for e in entries if e["name"] == arm.program_of)
                _with_multiple(folder / source["artifact"], path)
                for key in ("compile_seconds", "program_bytes", "dispatches", "contractions"):
                    entry[key] = source[key]
            else:
                entry |= exports.compile(arm, path, tuple(sizes))
                done = [folder / e["artifact"] for e in entries if "artifact" in e]
                _share_weights(path, done)
            entry["artifact"] = path.name
        except InputError:
            raise  # what one arm cannot take, none can
        except (EdgecError, StopIteration, KeyError) as error:
            # An arm that IREE cannot compile is a result.
            entry["error"] = str(error)
            say(f"{request.target}: {arm.name}: {error}")
    if not any("artifact" in entry for entry in entries):
        raise InputError(entries[0]["error"])
    index = {
        "target": request.target,
        "model": request.model,
        "options": {n: v for n, v in request.to_dict().items() if v not in (None, [])},
        "lengths": list(lengths),
        "machine": describe(),
        "arms": entries,
    }
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


class _Exports:
    """Each export once; arms start from what it dumped."""

    def __init__(self, request: CompileRequest, target: Target, folder: Path) -> None:
        self._request, self._target, self._folder = request, target, folder

    def compile(self, arm: Arm, output: Path, sizes: tuple[int, ...]) -> dict[str, Any]:
        """Compiles an arm; what its program cost and what is in it."""
        from edgec.compiler.driver import build

        experiment = arm.experiment
        # A program for every size would be a single one if there is no other size.
        if arm.static and len(sizes) > 1:
            experiment = dataclasses.replace(experiment, prompt_sizes=sizes)
        target = experiment.applied(self._target)
        dump, torch = self._folder / f"ir-{output.name}", self._folder / f"{arm.export}.mlir"
        start = torch / "torch.mlir"
        clock = _Clock()
        request = dataclasses.replace(
            self._request,
            dynamic_shapes=arm.export,
            output=output,
            dump_ir=dump,
            start_from=start if start.exists() else None,
            extra_compile_args=arm.flags,
            progress=clock,
        )
        try:
            build(request, (target,))
            if not start.exists():
                torch.mkdir()
                shutil.move(dump / "torch.mlir", start)
            artifact = Artifact.open(output)
            (program,) = artifact.manifest.programs.values()
            text = _configured(request, target, dump)
        finally:
            shutil.rmtree(dump, ignore_errors=True)
        from edgec.bench.dispatches import contractions, dispatch_counts

        return {
            "compile_seconds": clock.seconds["stream"] + clock.seconds["vmfb"],
            "program_bytes": artifact.manifest.files[program.file].size,
            "dispatches": dispatch_counts(text),
            "contractions": [dataclasses.asdict(c) for c in contractions(text)],
        }


def _configured(request: CompileRequest, target: Target, dump: Path) -> str:
    """The module after code generation has chosen for every dispatch."""
    from edgec.compiler.dumps import file_of
    from edgec.compiler.iree import IreeError, iree_compile_file
    from edgec.compiler.stages import compile_flags

    source, output = dump / file_of("input", target.name), dump / "configured.mlir"
    flags = (*compile_flags(target, request), "--compile-to=executable-configurations")
    try:
        iree_compile_file(source, output, flags)
    except IreeError as error:
        raise EdgecError(f"its dispatches cannot be listed: {error.summary}") from error
    return output.read_text("utf-8")


class _Clock:
    """A compile's progress: the seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def update(self, done: int, total: int, unit: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass


def _with_multiple(source: Path, output: Path) -> None:
    """A copy of an artifact, by hard links, whose prompts the runtime pads to the multiple."""
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(source, output, copy_function=os.link)
    manifest = Artifact.open(output).manifest
    prompt = dataclasses.replace(manifest.prompt, multiple_of=MULTIPLE, min=MULTIPLE)
    (output / MANIFEST_NAME).unlink()
    text = dataclasses.replace(manifest, prompt=prompt).to_json()
    (output / MANIFEST_NAME).write_text(text, "utf-8")


def _share_weights(path: Path, others: list[Path]) -> None:
    """Makes equal weights of arms one file: the same model, so usually all of them are."""
    manifest = Artifact.open(path).manifest
    name = manifest.parameters.file
    for other in others:
        if Artifact.open(other).manifest.files[name] == manifest.files[name]:
            (path / name).unlink()
            os.link(other / name, path / name)
            return


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name) + ".edgec"


def _padded(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


# --- Measuring --------------------------------------------------------------------------------


def measure_arms(
    folder: Path, *, say: Say, repetitions: int = 5, threads: int | None = None
) -> dict[str, Any]:
    """Measures what `compile_arms` left in the folders of `folder`, one for each target.

    Args:
        folder: That of `compile_arms`.
        say: Told what happens, a line at a time.
        repetitions: Samples of each arm and length, at least; short prompts have more.
        threads: CPU worker threads.

    Returns:
        What `docs/benchmarks.md` describes.

    Raises:
        InputError: nothing was compiled there.
    """
    indices = sorted(folder.glob(f"*/{_INDEX}"))
    if not indices:
        raise InputError(f"{folder}: no compiled arms", "compile them first")
    read = [(path.parent, json.loads(path.read_text("utf-8"))) for path in indices]
    first = read[0][1]
    return {
        "benchmark": "padding",
        "machine": describe(),
        "compiled_on": first["machine"],
        "model": first["model"],
        "options": first["options"],
        "threads": threads,
        "repetitions": repetitions,
        "targets": {
            index["target"]: _measure_target(path, index, say, repetitions, threads)
            for path, index in read
        },
    }


def _measure_target(
    folder: Path, index: dict[str, Any], say: Say, repetitions: int, threads: int | None
) -> dict[str, Any]:
    arms = index["arms"]
    kind = index["target"].partition(":")[0]
    workers: dict[str, Worker] = {}
    rows = []
    try:
        for arm in arms:
            if "error" in arm:
                continue
            try:
                workers[arm["name"]] = Worker(folder / arm["artifact"], kind, threads)
            except EdgecError as error:
                arm["error"] = str(error)
                say(f"{index['target']}: {arm['name']}: {error}")
        if not workers:
            raise EdgecError(arms[0]["error"])
        picks = random.Random(0)
        for length in index["lengths"]:
            say(f"{index['target']}: {length} tokens")
            prompt = [picks.randrange(200) for _ in range(length)]
            rows.append(_measure_length(arms, workers, prompt, repetitions))
    finally:
        for worker in workers.values():
            worker.close()
    return {"arms": arms, "lengths": rows}


def _measure_length(
    arms: list[dict[str, Any]], workers: dict[str, Worker], prompt: list[int], repetitions: int
) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    shortest = _SLOW
    for arm in arms:
        name = arm["name"]
        if name in workers:
            padded = _padded(len(prompt)) if arm["padded"] else len(prompt)
            warm = workers[name].measure(prompt)
            found[name] = {"padded": padded, "token": warm["token"], "seconds": []}
            shortest = min(shortest, warm["seconds"])
            if warm["seconds"] > _SLOW:  # once more will do
                found[name]["seconds"].append(workers[name].measure(prompt)["seconds"])
    slow = {name for name, row in found.items() if row["seconds"]}
    # A sample may be shorter than the clock of the machine's load: it is taken over all of them.
    with Load(tuple(worker.process.pid for worker in workers.values())) as load:
        for _ in range(max(repetitions, min(_MOST, int(_ENOUGH / shortest)))):
            for name, row in found.items():
                if name not in slow:
                    row["seconds"].append(workers[name].measure(prompt)["seconds"])
    for arm in arms:
        if row := found.get(arm["name"], {}):
            arm["peak_rss_mb"] = workers[arm["name"]].measure(prompt[:1])["peak_rss_mb"]
            _summarise(row, len(prompt))
    tokens = {row["token"] for row in found.values()}
    others = round(load.others, 2)
    return {"tokens": len(prompt), "others": others, "arms": found, "agree": len(tokens) == 1}


def _summarise(row: dict[str, Any], tokens: int) -> None:
    seconds = row["seconds"]
    median = statistics.median(seconds)
    row["median_seconds"] = median
    row["spread"] = spread(seconds)
    row["tokens_per_second"] = tokens / median
    row["padded_per_second"] = row["padded"] / median
