"""Fixtures that all tests share: a private cache, a compiled bundled model, quiet for timing tests.

Tests run in several processes (pytest-xdist). They share one temporary folder, which the first
process makes and names in the environment for the others.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.compiling import compiles, refuse_compilers

if TYPE_CHECKING:
    from edgec.artifact import Artifact

REPOSITORY = Path(__file__).resolve().parent.parent
_SHARED = "EDGEC_TEST_SHARED"

# A shell that runs tests in the background ignores Ctrl-C for them, and so would what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if _SHARED not in os.environ:
    # A user's settings must not change what the tests see; where trained models lie does not.
    for _name in [name for name in os.environ if name.startswith("EDGEC_")]:
        if _name != "EDGEC_MODELS_DIR":
            del os.environ[_name]
    os.environ[_SHARED] = tempfile.mkdtemp(prefix="edgec-tests-")
    os.environ["EDGEC_CACHE_DIR"] = os.path.join(os.environ[_SHARED], "cache")  # noqa: PTH118
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["COLUMNS"] = "100"


@contextmanager
def _locked(name: str, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Holds a lock that all test processes share."""
    with (Path(os.environ[_SHARED]) / f"{name}.lock").open("w") as file:
        fcntl.flock(file, kind)
        yield


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests that compile."""
    for item in items:
        if isinstance(item, pytest.Function):
            fixtures = item._fixtureinfo.name2fixturedefs
            if compiles(item.function, fixtures):
                item.add_marker("compiles")
    if "not compiles" in config.option.markexpr:
        refuse_compilers()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Runs a test marked `alone` while no other test runs in any process.

    Who waits for the room holds the door, so that a test that must be alone gets its turn.
    """
    kind = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
    with (Path(os.environ[_SHARED]) / "room.lock").open("w") as room:
        with _locked("door"):
            fcntl.flock(room, kind)
        return (yield)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[_SHARED], ignore_errors=True)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """A temporary folder that the tests of all processes share."""
    return Path(os.environ[_SHARED])


@pytest.fixture(scope="session")
def compile_once(shared_folder: Path) -> Callable[..., Artifact]:
    """`compile_once(name, model, **options)`: compiles in the first process that asks.

    The others open what it wrote; `name` tells artifacts of different options apart.
    """

    def compile_or_open(name: str, model: str, **options: Any) -> Artifact:
        import edgec
        from edgec.artifact import Artifact

        output = shared_folder / f"{name}.edgec"
        with _locked(name):
            if not output.exists():
                edgec.compile(model, output=output, **options)
        return Artifact.open(output)

    return compile_or_open


@pytest.fixture(scope="session")
def tiny_dense_artifact(compile_once: Callable[..., Artifact]) -> Artifact:
    """The bundled dense model for the CPU, f32, with the default options."""
    return compile_once("tiny-dense", "bundled:tiny-dense", target="cpu")


@pytest.fixture(scope="session")
def tiny_moe_artifact(compile_once: Callable[..., Artifact]) -> Artifact:
    """The bundled mixture of experts for the CPU, f32."""
    return compile_once(
        "tiny-moe",
        "bundled:tiny-moe",
        target="cpu",
        ctx_size=256,
        chunk_size=64,
        batch=(1, 4),
    )


@pytest.fixture(scope="session")
def run_edgec() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_edgec(*arguments, **of_subprocess_run)`: the command line in a process of its own."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from edgec.cli import main; main()"]
        defaults = {"capture_output": True, "text": True, "timeout": 600}
        return subprocess.run([*command, *map(str, arguments)], **(defaults | options))

    return run
