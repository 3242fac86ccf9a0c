"""A compiled program loaded on a device: weights mapped, entry points resolved.

One loaded program serves any number of sequences; each brings its own state buffers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from hashlib import sha256
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.archive import read_archive
from edgec.artifact import Artifact, cannot_read
from edgec.errors import ArtifactError, DeviceError, InputError
from edgec.manifest import Program, decode_name
from edgec.runtime import transfer
from edgec.runtime.contract import check_contract, check_program
from edgec.runtime.device import check_process, open_device
from edgec.runtime.drivers import driver_of
from edgec.runtime.interfaces import Output
from edgec.runtime.state import StateBuffers
from edgec.runtime.transfer import IREE_ERRORS as _IREE_ERRORS
from edgec.runtime.verified import matches
from edgec.runtime.weights import MappedWeights, map_file

__all__ = ["LoadedProgram", "select_program"]


class _Logits:
    """The logits f32[B, V] of a call, read from the device once."""

    def __init__(self, device: Any, view: Any) -> None:
        self._device = device
        self._view = view
        self._rows: Any = None

    def row(self, index: int) -> npt.NDArray[np.float32]:
        rows = self._rows
        if rows is None:
            rows = transfer.read(self._device, self._view, np.float32)
            if len(rows) > 1:
                self._rows = rows
        row: npt.NDArray[np.float32] = rows[index].copy() if len(rows) > 1 else rows[0]
        return row


class DeviceOutput:
    """A call's result for one of its sequences: reading it waits for the call."""

    def __init__(self, state: StateBuffers, logits: _Logits, row: int) -> None:
        self._state = state
        self._semaphore, self._done = state.timeline
        self._logits = logits
        self._row = row

    @property
    def token_view(self) -> Any:
        """The greedy token i32[1, 1], there once the call is done."""
        return self._state.slot_of(self._done - 1)

    def wait(self) -> None:
        check_process()
        try:
            self._semaphore.wait(self._done)
        except _IREE_ERRORS as error:
            raise DeviceError(f"a call failed on the device: {_first_line(error)}") from error

    def token(self) -> int:
        self.wait()
        return int(self._read(lambda: transfer.read_token(self.token_view)))

    def logits(self) -> npt.NDArray[np.float32]:
        self.wait()
        logits: npt.NDArray[np.float32] = self._read(lambda: self._logits.row(self._row))
        return logits

    def _read(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except _IREE_ERRORS as error:
            raise DeviceError(f"a result cannot be read: {_first_line(error)}") from error


@dataclass(frozen=True)
class _Row:
    """One sequence's part of a call; `length` is None in a decode step."""

    tokens: Any
    start: int
    length: int | None
    state: StateBuffers
    total: int = 0


class LoadedProgram:
    """The program of one device of an artifact, ready to be called. Safe to share by threads.

    Args:
        artifact: The opened artifact.
        device: See `select_program`.
        threads: CPU worker threads, see `open_device`.

    Raises:
        InputError: no program for `device`, or bad `threads`.
        ArtifactError: made with another IREE release, or its program or weights are damaged.
        DeviceError: the device is absent or lacks what the program requires.
    """

    def __init__(
        self, artifact: Artifact, device: str | None = None, threads: int | None = None
    ) -> None:
        self.artifact = artifact
        self.manifest = artifact.manifest
        self.program = select_program(artifact, device)
        check_contract(artifact.path, self.manifest)
        check_program(artifact.path, self.program, self.manifest.prompt)
        _check_device(artifact, self.program)
        code = _map_code(artifact, self.program.file)
        self._device = open_device(self.program.driver, threads)
        # An IREE context must not run two calls at once, and `invoke` lets other threads in.
        self._lock = threading.Lock()
        self._load(code)

    def _load(self, code: mmap) -> None:
        import iree.runtime as rt

        folder, parameters = self.artifact.path, self.manifest.parameters
        instance = rt.VmInstance()
        mapped = _map_weights(self.artifact)
        try:
            index = rt.ParameterIndex()
            index.load_from_file_handle(mapped.handle(), "irpa")
            provider = index.create_provider(parameters.scope)
            weights = rt.create_io_parameters_module(instance, provider)
        except _IREE_ERRORS as error:
            raise _unloadable(folder, parameters.file, error) from error
        try:
            # Not `VmModule.mmap`, which opens the file for writing.
            module = rt.VmModule.wrap_buffer(instance, code, close_buffer=True)
            hal = rt.create_hal_module(instance, self._device)
            self._context = rt.VmContext(instance, modules=[weights, hal, module])
        except _IREE_ERRORS as error:
            raise _unloadable(folder, self.program.file, error) from error
        self._functions = {}
        decodes = map(decode_name, self.manifest.batch_sizes)
        for name in (*self._prefills().values(), *decodes):
            function = module.lookup_function(f"{name}$async")
            if function is None:
                raise ArtifactError(f"artifact {folder}: {self.program.file} has no {name}")
            self._functions[name] = function
        # Last, as it is given back last: IREE has let go of the weights by then.
        self._weights = mapped

    def create_state(self) -> StateBuffers:
        """Zeroed state for one sequence. Raises DeviceError when memory does not suffice."""
        return StateBuffers(self._device, self.manifest.state)

    def prefill(
        self,
        tokens: npt.NDArray[np.int32],
        start: int,
        length: int,
        state: StateBuffers,
        total: int = 0,
    ) -> DeviceOutput:
        """Queues a block of tokens i32[1, P], of which the first `length` are true.

        The sequence will have `total` tokens; 0: as many as after this call.

        A program with prompt sizes takes it in several calls where P is not one of them.
        """
        prefills, size, done = self._prefills(), tokens.shape[1], 0
        for part in split_block(size, self.program.prompt_sizes):
            block = transfer.upload_tokens(self._device, tokens[:, done : done + part])
            true = min(part, length - done)
            row = _Row(block, start + done, true, state, total or start + length)
            (output,) = self._call(prefills.get(part, "prefill"), [row])
            done += part
        return output

    def _prefills(self) -> dict[int, str]:
        """Prompt size to the name of its entry point; 0 stands for every size."""
        sizes = self.program.prompt_sizes
        return {size: f"prefill_{size}" for size in sizes} or {0: "prefill"}

    def decode(self, steps: Seq[tuple[int | Output, int, Any]]) -> list[DeviceOutput]:
        """Queues one token of each sequence, given as (token, start, state), in one call.

        The token of an earlier output is not read for that: it stays on the device.

        Args:
            steps: No more than the largest batch size.
        """
        rows = []
        for token, start, state in steps:
            state.reserve()
            if isinstance(token, DeviceOutput):
                rows.append(_Row(token.token_view, start, None, state))
            else:
                assert isinstance(token, int), "an output of another program"
                rows.append(_Row(state.upload(token), start, None, state))
        size = min(size for size in self.manifest.batch_sizes if size >= len(rows))
        return self._call(decode_name(size), rows, size)

    def _call(self, name: str, rows: list[_Row], size: int = 1) -> list[DeviceOutput]:
        """Queues a call behind what its sequences have queued.

        A place of a batch that no sequence takes repeats the first one: it computes the same
        again and writes the same into the same rows. No state of its own is needed for that.
        """
        import iree.runtime as rt

        count = size * (5 + len(rows[0].state.views)) + 2
        arguments, results = rt.VmVariantList(count), rt.VmVariantList(1)
        before, after = rt.HalFence(len(rows)), rt.HalFence(len(rows))
        try:
            for row in (*rows, *rows[:1] * (size - len(rows))):
                row.state.reserve()
                arguments.push_ref(row.tokens)
                arguments.push_int(row.start)
                if row.length is not None:
                    arguments.push_int(row.length)
                    if self.manifest.model.rope_switches:
                        arguments.push_int(row.total)
                arguments.push_ref(row.state.next_slot())
                for view in row.state.views:
                    arguments.push_ref(view)
            for row in rows:
                semaphore, value = row.state.timeline
                before.insert(semaphore, value)
                after.insert(semaphore, value + 1)
                row.state.announce(arguments, results)
            arguments.push_ref(before)
            arguments.push_ref(after)
            with self._lock:
                self._context.invoke(self._functions[name], arguments, results)
            logits = _Logits(self._device, results.get_as_object(0, rt.HalBufferView))
        except _IREE_ERRORS as error:
            where = ", ".join(str(row.start) for row in rows)
            raise DeviceError(f"{name} failed at position {where}: {_first_line(error)}") from error
        return [DeviceOutput(row.state, logits, at) for at, row in enumerate(rows)]


def select_program(artifact: Artifact, device: str | None) -> Program:
    """The program for a device name.

    Args:
        device: A target of the manifest, in full (`vulkan:ampere`) or its kind alone (`vulkan`);
            None takes `cpu`, or the only program there is.

    Raises:
        InputError: no such program, or several; the message lists them.
    """
    programs = artifact.manifest.programs
    if device is None and len(programs) == 1:
        return next(iter(programs.values()))
    wanted = device or "cpu"
    if wanted in programs:
        return programs[wanted]
    fitting = [p for p in programs.values() if wanted in (p.target, p.target.split(":")[0])]
    if len(fitting) == 1:
        return fitting[0]
    have = ", ".join(sorted(p.target for p in programs.values())) or "nothing"
    if fitting:
        raise InputError(f"device {wanted!r}: the artifact has several programs for it: {have}")
    raise InputError(
        f"device {wanted!r}: the artifact has programs for {have}",
        f"compile again with --target {wanted}",
    )


def _check_device(artifact: Artifact, program: Program) -> None:
    """Refuses a device that is absent or does not fit, before anything is allocated on it."""
    memory = artifact.manifest.memory
    needed = memory.weights + memory.state_per_sequence + program.call_memory
    if driver := driver_of(program.driver):  # another one cannot be opened, which says why
        driver.check(program, needed)


def split_block(size: int, sizes: tuple[int, ...]) -> list[int]:
    """The calls that a block of `size` tokens takes: its own size, or `sizes`, largest first.

    The padding of a block is shorter than the smallest size, so every call has a true token.

    Raises:
        ArtifactError: the sizes cannot be put together to `size`.
    """
    if not sizes:
        return [size]
    parts: list[int] = []
    for part in sorted(sizes, reverse=True):
        parts += [part] * (size // part)
        size %= part
    if size:
        raise ArtifactError(f"no prompt sizes of {sizes} leave none of {size} tokens")
    return parts


def _map_code(artifact: Artifact, name: str) -> mmap:
    """Maps the program, whose bytes are those of the manifest's SHA-256.

    What is checked is what runs: of damaged weights a number is wrong, of damaged code the process
    dies.
    """
    record = artifact.manifest.files.get(name)
    try:
        code = map_file(artifact.path / name)
    except OSError as error:
        raise cannot_read(artifact.path / name, error) from None
    except ValueError as error:
        raise _unloadable(artifact.path, name, error) from error
    if record is None or sha256(code).hexdigest() != record.sha256:
        raise _differs(artifact.path, name)
    return code


def _map_weights(artifact: Artifact) -> MappedWeights:
    """Maps the weights, which are those of the manifest and a whole archive."""
    parameters = artifact.manifest.parameters
    path, record = artifact.path / parameters.file, artifact.manifest.files.get(parameters.file)
    try:
        mapped = MappedWeights(path)
        if record is None or not matches(path, mapped.about, mapped.mapping, record):
            raise _differs(artifact.path, parameters.file)
        with memoryview(mapped.mapping) as data:
            tensors = read_archive(data)
    except OSError as error:
        raise cannot_read(path, error) from None
    except ValueError as error:
        raise _unloadable(artifact.path, parameters.file, error) from error
    if (len(tensors), sum(tensors.values())) != (parameters.count, parameters.bytes):
        raise ArtifactError(
            f"artifact {artifact.path}: {parameters.file} has {len(tensors)} tensors of"
            f" {sum(tensors.values())} bytes, the manifest says {parameters.count} of"
            f" {parameters.bytes}",
            "compile again",
        )
    return mapped


def _differs(folder: Path, name: str) -> ArtifactError:
    return ArtifactError(f"artifact {folder}: {name} differs from its SHA-256", "compile again")


def _unloadable(folder: Path, name: str, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"artifact {folder}: {name} cannot be loaded: {_first_line(error)}",
        "check it with edgec inspect --verify, or compile again",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
