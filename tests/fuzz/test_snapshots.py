"""Damaged snapshots: one is refused, or gives exactly the sequence that was saved."""

from __future__ import annotations

import io
import json
import random
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.fuzz.cases import mutate_bytes, mutate_json, run_case
from tests.runtime.fakes import FakeProgram, make_manifest

from edgec.errors import EdgecError
from edgec.runtime import Sequence

TOKENS = [(3 + 7 * i) % 250 for i in range(40)]


def _saved() -> bytes:
    sequence = Sequence(FakeProgram(make_manifest()))
    sequence.extend(TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        sequence.save(Path(folder) / "state")
        return (Path(folder) / "state").read_bytes()


def _restore(snapshots: list[bytes]) -> int:
    """How many of these were refused; each leaves the sequence right."""
    program, refused = FakeProgram(make_manifest()), 0
    for number, data in enumerate(snapshots):
        sequence = Sequence(program)
        sequence.extend([9, 8])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state"
            path.write_bytes(data)
            try:
                sequence.restore(path)
            except EdgecError:
                refused += 1
        tokens = list(sequence.tokens)
        assert tokens in ([9, 8], TOKENS), number
        other = Sequence(program)
        other.extend(tokens)
        assert np.array_equal(sequence.step(5).logits(), other.step(5).logits()), number
    return refused


def _with_another_head(source: random.Random, data: bytes) -> bytes:
    """Whole otherwise, the checksums too."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(changed, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if member.filename == "head.npy":
                head = mutate_json(source, json.loads(bytes(np.load(io.BytesIO(content)))))
                array = io.BytesIO()
                np.save(array, np.frombuffer(json.dumps(head).encode(), np.uint8))
                content = array.getvalue()
            elif source.random() < 0.5:
                content = mutate_bytes(source, content[:128]) + content[128:]
            new.writestr(member, content)
    return changed.getvalue()


def _fuzz(cases: int) -> None:
    source, data, step = random.Random(5), _saved(), 100
    mutants = [mutate_bytes(source, data) for _ in range(cases // 2)]
    mutants += [_with_another_head(source, data) for _ in range(cases // 2)]
    for first in range(0, len(mutants), step):
        part = mutants[first : first + step]
        outcome = run_case(_restore, part, seconds=60, preload=("tests.runtime.fakes",))
        assert outcome.end == "returned", outcome
        assert outcome.value > len(part) / 4


def test_mutants() -> None:
    _fuzz(400)


@pytest.mark.slow
def test_many_mutants() -> None:
    _fuzz(10_000)
