"""The wheel and the source distribution hold the packages that are linked from the root."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import edgec

LINKED = ("compiler", "models", "passes", "runtime")
NOT_SHIPPED = {".md", ".pyc"}


def files_of(repository: Path) -> list[str]:
    """Files that git tracks or would track: no build outputs, no virtual environment."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=repository, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [name for name in listed.stdout.splitlines() if (repository / name).exists()]


def expected_in_package(repository: Path) -> set[str]:
    """The names inside a distribution for all files of the linked folders and of `src/edgec`."""
    names = set()
    for name in files_of(repository):
        top = name.partition("/")[0]
        if Path(name).suffix in NOT_SHIPPED or (repository / name).is_symlink():
            continue
        if top in LINKED:
            names.add(f"edgec/{name}")
        elif name.startswith("src/edgec/"):
            names.add(name.removeprefix("src/"))
    return names


@pytest.fixture(scope="module")
def distributions(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built without a network from a clean copy."""
    copy, output = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in files_of(repository):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / name, copy / name, follow_symlinks=False)
    backend = "import sys; from setuptools import build_meta as b; "
    for call in ("b.build_sdist(sys.argv[1])", "b.build_wheel(sys.argv[1])"):
        done = subprocess.run(
            [sys.executable, "-c", backend + call, str(output)],
            cwd=copy, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return output


def test_wheel_has_every_file(distributions: Path, repository: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert not sorted(expected_in_package(repository) - inside)
    outside = {name.partition("/")[0] for name in inside}
    assert outside == {"edgec", f"edgec-{edgec.__version__}.dist-info"}


def test_sdist_has_every_file(distributions: Path, repository: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    root = f"edgec-{edgec.__version__}"
    with tarfile.open(sdist) as archive:
        inside = set(archive.getnames())
    expected = {f"{root}/src/{name}" for name in expected_in_package(repository)}
    assert not sorted(expected - inside)
    assert {f"{root}/README.md", f"{root}/LICENSE", f"{root}/pyproject.toml"} <= inside


def test_installed_wheel_works(distributions: Path, tmp_path: Path) -> None:
    """From the wheel alone: the version, and a module of each linked package is found."""
    (wheel,) = distributions.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        "import importlib.util as u, edgec; print(edgec.__file__); from edgec.cli import main; "
        f"assert all(u.find_spec('edgec.' + n).origin for n in {LINKED}); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--version"],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(tmp_path / "edgec" / "__init__.py"),
        f"edgec {edgec.__version__}",
    ]


def test_one_version(repository: Path) -> None:
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    stated = re.search(r'^version = "(.*)"', text, re.MULTILINE)
    assert stated is not None
    assert stated[1] == edgec.__version__
    assert f"## {edgec.__version__}" in (repository / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", LINKED)
def test_links_are_relative(repository: Path, folder: str) -> None:
    link = repository / "src" / "edgec" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / ".." / folder
