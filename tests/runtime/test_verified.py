"""Weights are checked once for a file as it is, and again when it changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgec.artifact import Artifact
from edgec.errors import ArtifactError, InputError
from edgec.runtime import LoadedModel, verified


@pytest.fixture
def copy(
    tiny_dense_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Path]:
    """`copy()`: an artifact of this test's own, with a cache of its own."""
    monkeypatch.setenv("EDGEC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(verified, "_seen", set())
    monkeypatch.setattr(verified, "_SETTLED", -(10**15))
    return lambda: Path(shutil.copytree(tiny_dense_artifact.path, tmp_path / "a.edgec"))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read for their SHA-256."""
    read: list[str] = []
    monkeypatch.setattr(verified._log, "info", lambda text, path, size: read.append(path.name))
    return read


def flip(file: Path) -> None:
    """One bit of the last tensor, in place, at another time than before."""
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-8, os.SEEK_END)
        byte = stream.read(1)[0]
        stream.seek(-8, os.SEEK_END)
        stream.write(bytes([byte ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def test_weights_are_read_once(copy: Callable[[], Path], checks: list[str]) -> None:
    folder = copy()
    for _ in range(2):
        LoadedModel.load(folder)
    verified._seen.clear()  # as in a new process
    LoadedModel.load(folder)
    assert checks == ["weights.irpa"]


def test_changed_weights_are_noticed(copy: Callable[[], Path], checks: list[str]) -> None:
    """At the first load, and at any that follows a change, whoever set the time back."""
    folder = copy()
    LoadedModel.load(folder)
    before = (folder / "weights.irpa").stat()
    flip(folder / "weights.irpa")
    os.utime(folder / "weights.irpa", ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"weights\.irpa differs from its SHA-256"):
            LoadedModel.load(folder)
    flip(folder / "weights.irpa")
    LoadedModel.load(folder)
    assert len(checks) == 4


def test_a_file_that_has_just_changed_is_not_remembered(
    copy: Callable[[], Path], checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change again within the time that its file system tells apart."""
    monkeypatch.setattr(verified, "_SETTLED", 3600 * 10**9)
    folder = copy()
    for _ in range(2):
        LoadedModel.load(folder)
    assert checks == ["weights.irpa"] * 2


@pytest.mark.parametrize("cache", ["/proc/nothing", "/dev/null/x"])
def test_without_a_cache_a_process_remembers(
    copy: Callable[[], Path], checks: list[str], monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    monkeypatch.setenv("EDGEC_CACHE_DIR", cache)
    folder = copy()
    for _ in range(2):
        LoadedModel.load(folder)
    verified._seen.clear()
    LoadedModel.load(folder)
    assert checks == ["weights.irpa"] * 2


def test_without_a_home(
    copy: Callable[[], Path], checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EDGEC_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 99999)
    LoadedModel.load(copy())
    assert checks == ["weights.irpa"]


def test_policies(
    copy: Callable[[], Path], checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy()
    monkeypatch.setenv("EDGEC_CHECK_WEIGHTS", "always")
    for _ in range(2):
        LoadedModel.load(folder)
    flip(folder / "weights.irpa")
    monkeypatch.setenv("EDGEC_CHECK_WEIGHTS", "never")
    LoadedModel.load(folder)
    assert checks == ["weights.irpa"] * 2
    monkeypatch.setenv("EDGEC_CHECK_WEIGHTS", "sometimes")
    with pytest.raises(InputError, match="must be one of once, always, never"):
        LoadedModel.load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                                  "generation_config.json", "config.json", "cpu.vmfb"])  # fmt: skip
def test_small_files_are_read_at_every_load(copy: Callable[[], Path], name: str) -> None:
    folder = copy()
    LoadedModel.load(folder)
    before = (folder / name).stat()
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match=f"{name} differs from its SHA-256"):
        LoadedModel.load(folder)
