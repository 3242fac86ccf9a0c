"""The environments and models that the engines of the comparison run.

Everything is made at its first use, under the folder of a `Setup`. What cannot be made is an
`AbsentError` with the reason.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CONTEXT", "ENGINES", "WORKERS", "AbsentError", "Engine", "Setup", "made", "say"]

ROOT = Path(__file__).resolve().parent.parent
WORKERS = Path(__file__).resolve().parent / "engines"
GGUF = {"f16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
CONTEXT = 1024


class AbsentError(Exception):
    """Why an engine cannot take part."""


@dataclass
class Setup:
    """The folders in which things are made, and what for."""

    cache: Path
    model: str
    folder: Path
    threads: int
    offline: bool = False


# --- Environments ---------------------------------------------------------------------------


def environment(setup: Setup, name: str, packages: tuple[str, ...], torch: bool = False) -> Path:
    """The Python of an environment with pinned packages, made at its first use.

    With `torch`, what this environment has (torch, transformers) can be imported there too.
    """
    pins = [pin for pin in _pins() if re.split(r"[=<>]", pin)[0] in packages]
    home = setup.cache / "venvs" / name
    python, ready = home / "bin" / "python", home / "ready.txt"
    if ready.exists() and ready.read_text() == "\n".join(pins):
        return python
    if setup.offline:
        raise AbsentError(f"not installed in {home}")
    shutil.rmtree(home, ignore_errors=True)
    say(f"installing {', '.join(pins)}")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    if torch:
        own = next(home.glob("lib/python*/site-packages"))
        paths = [p for p in sys.path if p.endswith("site-packages")]
        (own / "parent.pth").write_text("\n".join(paths) + "\n")
    flags = {"CMAKE_ARGS": "-DGGML_NATIVE=ON", "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count())}
    _tool([str(python), "-m", "pip", "install", "--quiet", *pins], env={**flags, **os.environ})
    ready.write_text("\n".join(pins))
    return python


def _pins() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins: list[str] = project["project"]["optional-dependencies"]["peers"]
    return pins


def _tool(command: list[str], **options: Any) -> None:
    """Runs a converter or pip; its last line is the reason when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise AbsentError(lines[-1][:200] if lines else f"{command[0]} failed")


# --- Models: one function for each engine, from the folder to what its worker opens -----------


def made(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, made at its first use: under another name first, so that a half is never taken."""
    if not path.exists():
        part = path.with_name(f"part-{path.name}")
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        say(f"converting to {path}")
        make(part)
        part.rename(path)
    return path


def edgec_model(setup: Setup, kind: str) -> Path:
    """An artifact with weights and cache in f16, or quantised in groups of 32."""
    import edgec

    def make(part: Path) -> None:
        edgec.compile(
            str(setup.folder),
            output=part,
            dtype="f16",
            ctx_size=CONTEXT,
            quantize="none" if kind == "f16" else kind,
        )

    # The name has the version's digest of this source: another edgec compiles again.
    from edgec.compiler.digest import digest

    path = setup.folder.with_suffix(f".{kind}-{digest({})[:12]}.edgec")
    for older in path.parent.glob(f"{setup.folder.name}.{kind}-*.edgec"):
        if older != path:
            shutil.rmtree(older)
    return made(path, make)


def gguf_model(setup: Setup, kind: str) -> Path:
    """A GGUF file in which every matrix has the one format."""
    python = environment(setup, "gguf", ("gguf",))
    script = [str(python), str(WORKERS / "to_gguf.py"), str(setup.folder)]
    path = setup.folder.with_suffix(f".{kind}.gguf")
    return made(path, lambda part: _tool([*script, str(part), GGUF[kind]]))


def openvino_model(setup: Setup, kind: str) -> Path:
    """OpenVINO GenAI's model of the GGUF file, saved, so that loading does not convert."""
    python = environment(setup, "openvino", ("openvino-genai",))
    source = gguf_model(setup, kind)

    def make(part: Path) -> None:
        part.mkdir()
        inside = part / "model.gguf"
        inside.symlink_to(source.resolve())
        script = (
            "import sys, openvino_genai as g;"
            "g.LLMPipeline(sys.argv[1], 'CPU', enable_save_ov_model=True)"
        )
        _tool([str(python), "-c", script, str(inside)])
        inside.unlink()
        if not (part / "openvino_model.xml").exists():
            raise AbsentError("it did not save the converted model")

    return made(setup.folder.with_suffix(f".{kind}.openvino"), make)


def onnx_model(setup: Setup, kind: str) -> Path:
    """The folder that ONNX Runtime GenAI's model builder makes."""
    packages = ("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir")
    python = environment(setup, "onnxruntime", packages, torch=True)
    precision = "fp32" if kind == "f16" else kind
    options = ["prune_lm_head=true"]
    if json.loads((setup.folder / "config.json").read_text()).get("tie_word_embeddings"):
        options.append("shared_embeddings=true")
    if kind != "f16":
        options += ["block_size=32", "is_symmetric=true", "accuracy_level=4"]
    command = [str(python), "-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", precision]
    command += ["-i", str(setup.folder), "-c", str(setup.cache / "builder")]

    def make(part: Path) -> None:
        _tool([*command, "-o", str(part), "--extra_options", *options])

    return made(setup.folder.with_suffix(f".{kind}.onnx"), make)


def eager_model(setup: Setup, kind: str) -> Path:
    """The folder itself."""
    if kind != "f16":
        raise AbsentError("torch has no quantised linear layer for the CPU without more packages")
    return setup.folder


@dataclass(frozen=True)
class Engine:
    """A peer: how its model is made, what its worker runs in, and what is stored in how many bits.

    `weights` maps a format to what the engine's weights are then.
    """

    name: str
    worker: str
    model: Callable[[Setup, str], Path]
    venv: str | None
    packages: tuple[str, ...]
    weights: dict[str, str]

    def python(self, setup: Setup) -> Path:
        if self.venv is None:
            return Path(sys.executable)
        torch = self.venv == "onnxruntime"
        return environment(setup, self.venv, self.packages, torch)


_Q = {"int8": "int8, groups of 32", "int4": "int4, groups of 32"}
ENGINES = (
    Engine("edgec", "edgec_engine", edgec_model, None, (), {"f16": "f16"} | _Q),
    Engine(
        "llama.cpp", "llamacpp", gguf_model, "llamacpp", ("llama-cpp-python",),
        {"f16": "F16", "int8": "Q8_0", "int4": "Q4_0"},
    ),
    Engine(
        "ONNX Runtime GenAI", "ortgenai", onnx_model, "onnxruntime",
        ("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir"), {"f16": "f32"} | _Q,
    ),
    Engine(
        "OpenVINO GenAI", "openvino_genai_engine", openvino_model, "openvino",
        ("openvino-genai",), {"f16": "F16", "int8": "Q8_0", "int4": "Q4_0"},
    ),
    Engine("torch eager", "eager", eager_model, None, (), {"f16": "f32"}),
)  # fmt: skip


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
