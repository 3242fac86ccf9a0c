"""The archive, read back by IREE itself."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import iree.runtime as rt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.parameters import ArchiveEntry, write_archive
from edgec.errors import ModelError

STORED = [torch.float32, torch.float16, torch.bfloat16]

entries = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20),
    st.builds(
        ArchiveEntry,
        st.lists(st.integers(0, 9), max_size=3).map(tuple),
        st.sampled_from(STORED),
    ),
    max_size=12,
)


def read_back(path: Path) -> dict[str, bytes]:
    index = rt.ParameterIndex()
    index.load(str(path))
    # The view of an empty entry cannot be made.
    return {name: bytes(entry.file_view) if entry.length else b"" for name, entry in index.items()}


@settings(deadline=None, max_examples=60)
@given(entries=entries, source=st.sampled_from([*STORED, torch.float64]))
def test_iree_reads_what_was_written(
    entries: dict[str, ArchiveEntry], source: torch.dtype, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("archive") / "w.irpa"
    torch.manual_seed(0)
    tensors = {name: torch.randn(entry.shape).to(source) for name, entry in entries.items()}
    size = write_archive(path, entries, tensors.__getitem__)
    assert path.stat().st_size == size
    expected = {
        name: bytes(tensor.to(entries[name].dtype).view(-1).view(torch.uint8).numpy())
        for name, tensor in tensors.items()
    }
    assert read_back(path) == expected


def test_tensors_are_aligned(tmp_path: Path) -> None:
    """The runtime uses the mapped file as it lies: 64 bytes each, a page the first."""
    entries = {f"t{i}": ArchiveEntry((i, 3), torch.float16) for i in range(1, 9)}
    write_archive(tmp_path / "w.irpa", entries, lambda name: torch.ones(entries[name].shape))
    index = rt.ParameterIndex()
    index.load(str(tmp_path / "w.irpa"))
    offsets = [entry.file_storage[1] for _, entry in index.items()]
    assert all(offset % 64 == 0 for offset in offsets)
    assert offsets[0] % 4096 == 0


def test_a_file_is_written_in_aligned_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux keeps it in pages of 2 MB: every call but the last writes just that."""
    calls: list[int] = []

    class Recorder(io.FileIO):
        def write(self, data: Any) -> int:
            calls.append(len(data))
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda path, mode: Recorder(path, mode))
    tensors = {f"t{i}": torch.randn(i * 100_001) for i in range(1, 6)}
    entries = {name: ArchiveEntry(tuple(t.shape), t.dtype) for name, t in tensors.items()}
    size = write_archive(tmp_path / "w.irpa", entries, tensors.__getitem__)
    assert len(calls) == 3
    assert set(calls[:-1]) == {1 << 21}
    assert sum(calls) == size
    back = read_back(tmp_path / "w.irpa")
    assert all(back[name] == t.numpy().tobytes() for name, t in tensors.items())


def test_a_transposed_tensor_is_written_as_it_reads(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).view(2, 3).T
    write_archive(tmp_path / "w.irpa", {"t": ArchiveEntry((3, 2), torch.float32)}, lambda _: tensor)
    assert read_back(tmp_path / "w.irpa")["t"] == tensor.contiguous().numpy().tobytes()


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"t: \(3, 2\) instead of \(2, 3\)"):
        write_archive(
            tmp_path / "w.irpa",
            {"t": ArchiveEntry((2, 3), torch.float32)},
            lambda _: torch.ones(3, 2),
        )


def test_progress(tmp_path: Path) -> None:
    entries = {name: ArchiveEntry((16,), torch.float32) for name in "abc"}
    told: list[int] = []
    write_archive(tmp_path / "w.irpa", entries, lambda _: torch.ones(16), told.append)
    assert told == [64, 128, 192]


def test_memory_is_bounded_by_one_tensor(tmp_path: Path) -> None:
    """Twelve tensors of 32 MB are made and written in turn, in two types."""
    script = f"""
import resource, torch
from pathlib import Path
from edgec.compiler.parameters import ArchiveEntry, write_archive
from edgec.errors import ModelError
shape = (1 << 23,)
def write(names, dtype):
    entries = {{name: ArchiveEntry(shape, dtype) for name in names}}
    return write_archive(Path({str(tmp_path / "w.irpa")!r}), entries, lambda _: torch.ones(shape))
write("a", torch.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert write("abcdefghijkl", torch.float32) > 12 * 32 << 20
assert write("abcdefghijkl", torch.bfloat16) > 12 * 16 << 20
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 96 << 10  # kB; without streaming it would be 384 MB


@pytest.mark.parametrize(
    ("value", "dtype", "what", "remedy"),
    [
        (7e4, torch.float16, "has values up to 70000, beyond those of f16, 65504", "bf16 or f32"),
        (-1e6, torch.float16, "has values up to 1e\\+06, beyond those of f16", "bf16 or f32"),
        (3.4e38, torch.bfloat16, r"has values up to 3.4e\+38, beyond those of bf16", "f32"),
        (float("nan"), torch.float32, "has 1 of 12 values that are NaN or infinite", "nan_to_num"),
        (float("inf"), torch.bfloat16, "has 1 of 12 values that are NaN or infinite", "nan_to_num"),
        (float("-inf"), torch.float16, "has 1 of 12 values that are NaN or infinite", "nan_to_num"),
    ],
)
def test_values_that_the_type_does_not_hold(
    value: float, dtype: torch.dtype, what: str, remedy: str, tmp_path: Path
) -> None:
    """Otherwise every answer of the model would be NaN."""
    tensor = torch.ones(3, 4)
    tensor[1, 2] = value
    entries = {"some.weight": ArchiveEntry((3, 4), dtype)}
    with pytest.raises(ModelError, match=f"weights: some.weight {what}") as caught:
        write_archive(tmp_path / "w.irpa", entries, lambda name: tensor)
    assert remedy in caught.value.remedy


def test_the_largest_value_of_a_type_is_stored(tmp_path: Path) -> None:
    entries = {"w": ArchiveEntry((2,), torch.float16), "e": ArchiveEntry((0,), torch.float16)}
    values = {"w": torch.tensor([65504.0, -65504.0]), "e": torch.zeros(0)}
    write_archive(tmp_path / "w.irpa", entries, values.__getitem__)
