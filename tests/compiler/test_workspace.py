"""Folders and locks under names that anybody can guess: nothing of others is touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import pytest

from edgec.compiler import workspace as workspaces
from edgec.compiler.workspace import locked, remove_abandoned, workspace
from edgec.errors import InputError


def abandoned(parent: Path) -> Path:
    """A folder as a killed build leaves it."""
    folder, lock = workspaces._locked_folder(parent)
    (folder / "artifact").mkdir()
    (folder / "artifact" / "weights.irpa").write_bytes(b"w" * 100)
    (folder / "link").symlink_to(parent)
    os.close(lock)
    return folder


def build(parent: Path) -> None:
    with workspace(parent / "x.edgec") as folder:
        (folder / "mine").write_text("")


def test_an_abandoned_folder_goes(tmp_path: Path) -> None:
    folder = abandoned(tmp_path)
    (tmp_path / "precious").write_text("years of work")
    build(tmp_path)
    assert not folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("kill", ["before its lock", "before its mark"])
def test_a_folder_killed_at_its_start_goes(tmp_path: Path, kill: str) -> None:
    folder = tmp_path / ".edgec-building-x"
    folder.mkdir()
    if kill == "before its mark":
        (folder / "lock").touch()
    build(tmp_path)
    assert not folder.exists()


def plant_link(folder: Path, precious: Path) -> None:
    (folder / "lock").symlink_to(precious)


def plant_dangling_link(folder: Path, precious: Path) -> None:
    (folder / "lock").symlink_to(precious.with_name("new"))


def plant_hard_link(folder: Path, precious: Path) -> None:
    (folder / "lock").hardlink_to(precious)


def plant_pipe(folder: Path, precious: Path) -> None:
    os.mkfifo(folder / "lock")


def plant_folder(folder: Path, precious: Path) -> None:
    (folder / "lock").mkdir()


def plant_nothing(folder: Path, precious: Path) -> None:
    pass


def plant_empty(folder: Path, precious: Path) -> None:
    (folder / "lock").touch()


def plant_copied_mark(folder: Path, precious: Path) -> None:
    (folder / "lock").write_bytes(workspaces._mark(folder.with_name(".edgec-building-other")))


PLANTS = [
    plant_link, plant_dangling_link, plant_hard_link, plant_pipe, plant_folder, plant_nothing,
    plant_empty, plant_copied_mark,
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_folder_is_left_alone(
    tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("years of work")
    shared = tmp_path / "shared"
    folder = shared / ".edgec-building-evil"
    folder.mkdir(parents=True)
    (folder / "notes").write_text("a stranger's")
    plant(folder, precious)
    build(shared)
    assert precious.read_text() == "years of work"
    assert (folder / "notes").read_text() == "a stranger's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "shared"]


@pytest.mark.parametrize("kind", ["link", "file", "pipe"])
def test_what_is_no_folder_is_left_alone(tmp_path: Path, kind: str) -> None:
    (tmp_path / "shared").mkdir()
    evil, target = tmp_path / "shared" / ".edgec-building-evil", tmp_path / "target"
    target.mkdir()
    (target / "lock").write_bytes(workspaces._mark(evil))
    if kind == "link":
        evil.symlink_to(target)
    elif kind == "file":
        evil.write_text("mine")
    else:
        os.mkfifo(evil)
    build(tmp_path / "shared")
    assert evil.is_symlink() if kind == "link" else evil.exists()
    assert (target / "lock").exists()


def test_another_users_folder_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = abandoned(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    remove_abandoned(tmp_path)
    assert folder.exists()
    monkeypatch.undo()
    remove_abandoned(tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_planted_lock_of_the_cache_is_refused(tmp_path: Path, kind: str) -> None:
    precious, lock = tmp_path / "precious", tmp_path / "locks" / "key"
    precious.write_text("years of work")
    lock.parent.mkdir()
    if kind == "link":
        lock.symlink_to(precious)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(InputError, match="choose another with --cache-dir"), locked(lock):
        pytest.fail("locked")
    assert precious.read_text() == "years of work"


def test_a_lock_keeps_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("kept")
    with locked(tmp_path / "key"):
        pass
    assert (tmp_path / "key").read_text() == "kept"


def test_many_workspaces_at_once(tmp_path: Path) -> None:
    """None takes another, that is just being made, for abandoned."""

    def work(number: int) -> bool:
        with workspace(tmp_path / "out") as folder:
            (folder / "mine").write_text(str(number))
            sleep(number % 7 / 1000)
            return (folder / "mine").read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))
    assert list(tmp_path.iterdir()) == []


def test_a_copy_of_a_living_build_stays(tmp_path: Path) -> None:
    with workspace(tmp_path / "out") as folder:
        copy = tmp_path / ".edgec-building-copy"
        shutil.copytree(folder, copy)
        build(tmp_path)
        assert copy.exists() and folder.exists()
