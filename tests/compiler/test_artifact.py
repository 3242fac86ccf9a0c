"""An artifact appears whole or not at all, whatever happens while it is made."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgec
from edgec.artifact import READ_FILES, Artifact
from edgec.compiler import artifact as writing
from edgec.compiler import driver
from edgec.compiler.progress import Silent
from edgec.errors import CompileError, InputError
from edgec.manifest import MANIFEST_NAME
from edgec.models.sources.hub import TEMPLATES
from edgec.tokenizer_files import TOKENIZER_FILES

Compile = Callable[..., Artifact]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too; and the empty folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


def test_whole(fake_compile: Compile, model: Path, tmp_path: Path) -> None:
    artifact = fake_compile()
    assert artifact.path == tmp_path / "out"
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}
    assert {path.name for path in artifact.path.iterdir()} == {
        MANIFEST_NAME, "cpu.vmfb", "weights.irpa", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "config.json", "generation_config.json",
    }  # fmt: skip
    assert artifact == Artifact.open(tmp_path / "out")
    artifact.verify()


FAULTS: list[tuple[type[BaseException], BaseException]] = [
    (CompileError, CompileError("it broke")),
    (KeyboardInterrupt, KeyboardInterrupt()),
    (SystemExit, SystemExit(143)),
    (InputError, OSError(errno.ENOSPC, "No space left on device")),
    (OSError, OSError(errno.EIO, "Input/output error")),
]


@pytest.mark.parametrize("where", ["export", "write_archive", "_manifest", "vmfb", "publish"])
@pytest.mark.parametrize(("expected", "fault"), FAULTS, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("force", [False, True])
def test_a_fault_leaves_nothing_and_spoils_nothing(
    fake_compile: Compile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    expected: type[BaseException],
    fault: BaseException,
    force: bool,
) -> None:
    if force:
        fake_compile(dtype="f16")
    before = tree(tmp_path)

    def fail(*arguments: Any, **options: Any) -> None:
        raise fault

    with monkeypatch.context() as patch:
        if where == "vmfb":
            patch.setitem(driver.STAGES, where, fail)
        elif where == "publish":
            patch.setattr(writing.os, "fsync", fail)
        else:
            patch.setattr(driver, where, fail)
        with pytest.raises(expected):
            fake_compile(force=force)
    assert tree(tmp_path) == before
    fake_compile(force=force).verify()


def test_the_same_build_is_not_made_again(fake_compile: Compile) -> None:
    first = fake_compile()
    times = {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()}
    assert fake_compile() == first
    assert {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()} == times
    inode = first.path.stat().st_ino
    assert fake_compile(force=True) == first
    assert first.path.stat().st_ino != inode


def test_another_build_needs_force(fake_compile: Compile) -> None:
    first = fake_compile()
    with pytest.raises(InputError, match=r"out: exists and is another build \(add --force"):
        fake_compile(dtype="f16")
    assert Artifact.open(first.path) == first
    assert fake_compile(dtype="f16", force=True).manifest.dtype == "f16"


class Notes(Silent):
    """Remembers what a user would read."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


DAMAGES = ["flipped", "truncated", "longer", "missing", "folder"]
FILES = ["cpu.vmfb", "weights.irpa", "tokenizer.json", "generation_config.json"]


@pytest.mark.parametrize("place", ["cache", "output"])
@pytest.mark.parametrize(
    ("name", "damage"),
    [*((name, "flipped") for name in FILES), *(("cpu.vmfb", damage) for damage in DAMAGES[1:])],
)
def test_compile_again_mends(
    fake_compile: Compile, tmp_path: Path, name: str, damage: str, place: str
) -> None:
    options: dict[str, Any] = {}
    if place == "cache":
        options = {"output": None, "cache_dir": tmp_path / "cache"}
    whole = fake_compile(**options)
    before = tree(whole.path)
    file = whole.path / name
    if damage == "flipped":
        flip(file, -1)
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "longer":
        file.write_bytes(file.read_bytes() + b"x")
    else:
        file.unlink()
        if damage == "folder":
            file.mkdir()
    notes = Notes()
    assert fake_compile(**options, progress=notes) == whole
    assert tree(whole.path) == before
    assert len(notes.said) == 1
    assert str(whole.path) in notes.said[0] and name in notes.said[0]
    assert notes.said[0].endswith(": it is built again")
    again = Notes()
    fake_compile(**options, progress=again)
    assert again.said == []


def test_a_damaged_manifest(fake_compile: Compile, tmp_path: Path) -> None:
    """In the cache it is made again; of an output nobody knows what it was: --force only."""
    cached = fake_compile(output=None, cache_dir=tmp_path / "cache")
    given = fake_compile()
    for artifact in (cached, given):
        file = artifact.path / MANIFEST_NAME
        file.write_bytes(file.read_bytes()[:-9])
    assert fake_compile(output=None, cache_dir=tmp_path / "cache") == cached
    with pytest.raises(InputError, match="--force"):
        fake_compile()
    fake_compile(force=True).verify()


def test_another_users_entry_in_the_cache_is_not_run(
    fake_compile: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = fake_compile(output=None, cache_dir=tmp_path / "cache").path
    true_stat = Path.stat

    def stat(path: Path, **options: Any) -> Any:
        found = true_stat(path, **options)
        if path != entry:
            return found
        return os.stat_result((*found[:4], found.st_uid + 12345, *found[5:10]))

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(InputError, match=r"was put there by another user \(uid .*--cache-dir"):
        fake_compile(output=None, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("kind", ["folder", "file", "manifest of another program"])
def test_force_spares_what_is_no_artifact(fake_compile: Compile, tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("years of work")
    elif kind == "file":
        (tmp_path / "out").write_text("years of work")
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / MANIFEST_NAME).write_text('{"manifest_version": 3}')
    before = tree(tmp_path)
    with pytest.raises(InputError, match="out: exists and is no artifact, so it is not replaced"):
        fake_compile(force=True)
    assert tree(tmp_path) == before


def test_an_empty_folder_is_no_hindrance(fake_compile: Compile, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fake_compile().verify()


def test_folders_on_the_way_are_made(fake_compile: Compile, tmp_path: Path) -> None:
    fake_compile(output=tmp_path / "not" / "yet" / "there").verify()


def test_something_appears_meanwhile(
    fake_compile: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two builds without a cache go on side by side; who is last finds the other's result."""
    equal = fake_compile(output=tmp_path / "equal")
    other = fake_compile(output=tmp_path / "other", dtype="f16")
    (copied,) = [equal.path]

    def arrive(build: Any, result: Path, *, manifest: Any = driver._manifest) -> Any:
        shutil.copytree(copied, tmp_path / "out")
        return manifest(build, result)

    monkeypatch.setattr(driver, "_manifest", arrive)
    assert fake_compile().manifest == equal.manifest
    shutil.rmtree(tmp_path / "out")
    copied = other.path
    with pytest.raises(InputError, match="out: written by something else meanwhile"):
        fake_compile()
    assert Artifact.open(tmp_path / "out").manifest == other.manifest


def test_no_space(fake_compile: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1 << 20))
    with pytest.raises(InputError, match=r"needs 64 MB, the disk has 1 MB free \(free some"):
        fake_compile()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("options", [{"output": "file/out"}, {"output": "/proc/out"}])
def test_unwritable_output(
    fake_compile: Compile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="cannot write to .*choose another place with -o"):
        fake_compile(**options)
    assert tree(tmp_path) == before


def test_unwritable_cache(fake_compile: Compile, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cache: cannot write to .*--cache-dir"):
        fake_compile(output=None, cache_dir=tmp_path / "file")


def start(script: str, install: str, model: Path, **options: Any) -> subprocess.Popen[str]:
    """A compile with `fake_stages` in a process of its own."""
    program = f"{script}\n{install}\nimport edgec\nedgec.compile({str(model)!r}, **{options!r})"
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_what_a_killed_build_leaves_is_removed_by_the_next(
    fake_compile: Compile, fake_script: str, model: Path, tmp_path: Path
) -> None:
    hang = "import time\ninstall(lambda: print('there', flush=True) or time.sleep(60))"
    process = start(fake_script, hang, model, output=str(tmp_path / "out"), ctx_size=128)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    left = [path.name for path in tmp_path.iterdir() if path.name != "model"]
    assert len(left) == 1 and left[0].startswith(".edgec-building-")
    fake_compile(output=tmp_path / "beside")  # the folder of a living build stays
    assert (tmp_path / left[0] / "cpu.vmfb").is_file()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "out").exists()
    fake_compile().verify()
    assert {path.name for path in tmp_path.iterdir()} == {"model", "beside", "out"}


def test_two_builds_into_one_cache(fake_script: str, model: Path, tmp_path: Path) -> None:
    """Both succeed, one builds: the other waits and takes its result."""
    count = "import time\ninstall(lambda: print('built', flush=True) or time.sleep(1))"
    options: dict[str, Any] = {"cache_dir": str(tmp_path / "cache"), "ctx_size": 128}
    both = [start(fake_script, count, model, **options) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == ["", "built\n"]
    (artifact,) = (tmp_path / "cache").glob("*.edgec")
    Artifact.open(artifact).verify()
    assert not list((tmp_path / "cache").glob(".edgec-building-*"))


def test_default_cache(
    fake_compile: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEC_CACHE_DIR", str(tmp_path / "mine"))
    artifact = fake_compile(output=None)
    assert artifact.path.parent == tmp_path / "mine"
    assert artifact.manifest.digest[:16] in artifact.path.name
    monkeypatch.delenv("EDGEC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert edgec.compiler.driver.default_cache_dir() == tmp_path / "xdg" / "edgec"


def test_what_a_model_brings_is_what_the_runtime_reads() -> None:
    """A file of such a name that the manifest does not list is refused when it is opened."""
    assert {*TOKENIZER_FILES, Path(TEMPLATES).parts[0]} == set(READ_FILES)
