"""Saved sequences: every other file is refused before anything has changed, and none is lost."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.fakes import FakeProgram, make_manifest

from edgec.errors import DeviceError, InputError
from edgec.runtime import Sequence
from edgec.runtime.pool import SequencePool
from edgec.runtime.snapshot import write_snapshot

TOKENS = [5, 6, 7]
HEAD = {"format": 2, "digest": "0", "shortest": 0}


def members(**changes: Any) -> dict[str, Any]:
    """The members of a file of three tokens; None leaves a member out."""
    arrays = {
        "head": np.frombuffer(json.dumps(HEAD).encode(), np.uint8),
        "tokens": np.array(TOKENS, np.int32),
        "buffer0": np.array(TOKENS, np.int32).view(np.uint8),
    } | changes
    return {name: array for name, array in arrays.items() if array is not None}


def saved(path: Path, **changes: Any) -> None:
    with path.open("wb") as file:
        np.savez(file, **members(**changes))


def head(**changes: Any) -> Any:
    return np.frombuffer(json.dumps(HEAD | changes).encode(), np.uint8)


def raw(text: bytes) -> Any:
    return np.frombuffer(text, np.uint8)


CHANGES: dict[str, dict[str, Any]] = {
    "no head": {"head": None},
    "a head that is a list": {"head": raw(b"[1]")},
    "a deep head": {"head": raw(b"[" * 4000)},
    "a long head": {"head": raw(b" " * 100_000)},
    "a head that is no text": {"head": raw(b"\xff\xfe")},
    "a head of numbers": {"head": np.zeros(3)},
    "a head of another format": {"head": head(format=1)},
    "no tokens": {"tokens": None},
    "0 tokens": {"tokens": np.zeros(0, np.int32), "buffer0": np.zeros(0, np.uint8)},
    "tokens of no dimension": {"tokens": np.int32(5)},
    "tokens of two dimensions": {"tokens": np.zeros((2, 2), np.int32)},
    "tokens that are dates": {"tokens": np.array(["2020-01-01"] * 3, "M8[D]")},
    "tokens that are records": {"tokens": np.zeros(3, [("a", "i4")])},
    "tokens that are objects": {"tokens": np.array([{}, 1, 2], object)},
    "tokens of 64 bits": {"tokens": np.array(TOKENS, np.int64)},
    "tokens of the other end": {"tokens": np.array(TOKENS, ">i4")},
    "too many tokens": {"tokens": np.zeros(300, np.int32)},
    "a token outside the vocabulary": {"tokens": np.array([5, 6, 10_000], np.int32)},
    "a negative token": {"tokens": np.array([5, 6, -1], np.int32)},
    "no buffer": {"buffer0": None},
    "a buffer that is short": {"buffer0": np.zeros(8, np.uint8)},
    "a buffer that is long": {"buffer0": np.zeros(16, np.uint8)},
    "a buffer of another type": {"buffer0": np.array(TOKENS, np.int32)},
    "a buffer of two dimensions": {"buffer0": np.zeros((3, 4), np.uint8)},
    "a buffer too many": {"buffer1": np.zeros(12, np.uint8)},
    "something else": {"readme": np.zeros(1)},
    "another artifact": {"head": head(digest="1")},
    "shortest beyond the tokens": {"head": head(shortest=4)},
    "shortest that is a truth": {"head": head(shortest=True)},
    "shortest that is text": {"head": head(shortest="0")},
}


def npy(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(compression: int = zipfile.ZIP_STORED, **replaced: bytes) -> bytes:
    """A file of three tokens, some members of which are these bytes."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", compression) as file:
        for name, array in members().items():
            one = io.BytesIO()
            np.save(one, array)
            file.writestr(f"{name}.npy", replaced.get(name, one.getvalue()))
    return whole.getvalue()


def patched(at: int, value: bytes, mark: bytes = b"PK\x01\x02") -> bytes:
    """A file whose first entry in the directory says something else."""
    data = bytearray(archive())
    place = data.index(mark) + at
    data[place : place + len(value)] = value
    return bytes(data)


def twice() -> bytes:
    whole = io.BytesIO(archive())
    with zipfile.ZipFile(whole, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("tokens.npy", npy("(3,)", "'<i4'") + bytes(12))
    return whole.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "an array": lambda: npy("(3,)") + b"abc",
    "a pickle": lambda: b"\x80\x04K\x01.",
    "text": lambda: b"PK\x03\x04 no archive",
    "cut": lambda: archive()[:-30],
    "a header of 2^40 bytes": lambda: archive(buffer0=npy(f"({2**40},)") + bytes(12)),
    "a header of 2^70 bytes": lambda: archive(buffer0=npy(f"({2**70},)") + bytes(12)),
    "a header of minus one": lambda: archive(buffer0=npy("(-1,)") + bytes(12)),
    "a header of truth": lambda: archive(tokens=npy("(True,)", "'<i4'") + bytes(4)),
    "a header that is deep": lambda: archive(buffer0=npy("(" * 3000)),
    "a header that is long": lambda: archive(buffer0=npy("(" + "-" * 60_000 + "3,)")),
    "less than the header says": lambda: archive(buffer0=npy("(12,)") + bytes(5)),
    "more than the header says": lambda: archive(buffer0=npy("(12,)") + bytes(13)),
    "a bomb": lambda: archive(zipfile.ZIP_DEFLATED, buffer0=npy("(12,)") + bytes(20_000_000)),
    "compressed": lambda: archive(zipfile.ZIP_DEFLATED),
    "encrypted": lambda: patched(8, b"\x01\x00"),
    "an unknown compression": lambda: patched(10, b"\x63\x00"),
    "a size of 4 GB": lambda: patched(24, b"\xfe\xff\xff\xff"),
    "another checksum": lambda: patched(16, b"\x00\x00\x00\x01"),
    "a name twice": twice,
    "beyond any size": lambda: archive() + bytes(200_000),
}


def refused(path: Path) -> None:
    """By the sequence, which stays as it was, and by a pool, which has its memory back."""
    program = FakeProgram(make_manifest())
    sequence, other = Sequence(program), Sequence(program)
    for one in (sequence, other):
        one.extend([9, 8, 7, 6])
    with pytest.raises(InputError, match=re.escape(path.name[:200])):
        sequence.restore(path)
    assert sequence.tokens == (9, 8, 7, 6)
    assert np.array_equal(sequence.step(3).logits(), other.step(3).logits())
    pool = SequencePool(program, 4 * 288, None)
    for _ in range(2):
        with pytest.raises(InputError, match=re.escape(path.name[:200])):
            pool.restore(path, "a")
    assert pool.state_bytes == 0


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_with_other_content_is_refused(tmp_path: Path, change: str) -> None:
    saved(tmp_path / "state", **CHANGES[change])
    refused(tmp_path / "state")


@pytest.mark.parametrize("kind", FILES)
def test_a_hostile_file_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "state").write_bytes(FILES[kind]())
    start = time.process_time()
    refused(tmp_path / "state")
    assert time.process_time() - start < 5


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "state")
    for path in (tmp_path / "state", tmp_path, tmp_path / "none", Path("/dev/zero")):
        refused(path)
    refused(Path(f"{tmp_path}/{'a' * 5000}"))


def test_as_it_was_saved(tmp_path: Path) -> None:
    """The files above differ from one that is taken in what they say only."""
    saved(tmp_path / "state")
    sequence = Sequence(FakeProgram(make_manifest()))
    sequence.restore(tmp_path / "state")
    assert sequence.tokens == tuple(TOKENS)
    (tmp_path / "state").write_bytes(archive())
    sequence.restore(tmp_path / "state")
    assert sequence.tokens == tuple(TOKENS)


def test_a_pool_loses_no_sequence_whatever_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = SequencePool(FakeProgram(make_manifest()), 2 * 4 * 288, None)
    acquired = pool.acquire([1] * 80, None, True)
    assert acquired is not None
    acquired[0].extend([1] * 80)
    pool.release(acquired[0], None, keep=True)

    def failing(*arguments: Any) -> Any:
        raise error

    for error in (TypeError("x"), KeyboardInterrupt(), DeviceError("lost")):
        for name in ("copy_prefix", "keep", "restore"):
            with monkeypatch.context() as patch:
                patch.setattr(Sequence, name, failing)
                try:
                    if name == "restore":
                        pool.restore(Path("x"), "a")
                    elif (taken := pool.acquire([1] * 40, None, True)) is not None:
                        pool.release(taken[0], None, keep=False)
                except type(error):
                    pass
        assert pool._busy == {}


@pytest.mark.parametrize("failure", ["the disk", "an interrupt"])
def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    path, error = tmp_path / "state", OSError(28, "No space left on device")
    saved(path)
    before = path.read_bytes()

    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise error if failure == "the disk" else KeyboardInterrupt

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError if failure == "the disk" else KeyboardInterrupt):
        write_snapshot(path, "0", TOKENS, 0, [])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("unnamed", [True, False])
def test_saving_needs_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool
) -> None:
    """A file system like FAT, which has neither hard links nor files without a name."""
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
        monkeypatch.delattr(os, "link")
    path = tmp_path / "state"
    for tokens in ([1], TOKENS):
        rows = [np.array(tokens, np.int32).view(np.uint8)]
        write_snapshot(path, "0", tokens, 0, rows)
    sequence = Sequence(FakeProgram(make_manifest()))
    sequence.restore(path)
    assert sequence.tokens == tuple(TOKENS)
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="cannot be saved: Is a directory"):
        write_snapshot(tmp_path, "0", TOKENS, 0, [])
    with pytest.raises(InputError, match="cannot be saved: No such file"):
        write_snapshot(tmp_path / "none" / "x", "0", TOKENS, 0, [])


KILLED = """
import sys, numpy as np
from pathlib import Path
from edgec.runtime.snapshot import write_snapshot
print("ready", flush=True)
while True:
    rows = np.array([5, 6, 7], np.int32).view(np.uint8)
    write_snapshot(Path(sys.argv[1]), "0", [5, 6, 7], 0, [rows])
"""


def test_a_process_that_is_killed_while_it_saves(tmp_path: Path) -> None:
    path = tmp_path / "state"
    saved(path)
    for at in range(4):
        command = [sys.executable, "-c", KILLED, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.002 + 0.007 * at)
            process.send_signal(signal.SIGKILL)
        sequence = Sequence(FakeProgram(make_manifest()))
        sequence.restore(path)
        assert sequence.tokens == tuple(TOKENS)
