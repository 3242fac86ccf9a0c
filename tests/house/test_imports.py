"""The rules of importing: what is cheap, what a device never loads, who may know whom."""

from __future__ import annotations

import ast
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

COMPILE_ONLY = ("torch", "transformers", "iree.turbine", "iree.compiler", "safetensors")
ALLOWED_IREE = {"runtime": {"iree.runtime"}, "models": set(), "passes": {"iree.compiler"}}


def loaded_by(code: str) -> set[str]:
    """The modules in `sys.modules` of a new process after `code`."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def processor_seconds(code: str) -> float:
    """Median of 5 new processes: what they compute, not what they wait for on a busy machine."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(times)


@pytest.mark.alone
def test_import_edgec_is_fast() -> None:
    assert processor_seconds("import edgec") < 0.2


@pytest.mark.alone
@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_command_line_is_fast(argument: str) -> None:
    code = f"import sys; sys.argv = ['edgec', '{argument}']; from edgec.cli import main; main()"
    assert processor_seconds(code) < 0.4


def test_import_edgec_loads_only_the_standard_library() -> None:
    new = loaded_by("import edgec") - loaded_by("pass")
    foreign = {name.partition(".")[0] for name in new} - sys.stdlib_module_names - {"edgec"}
    assert not foreign


@pytest.mark.parametrize(
    "code",
    [
        "import edgec.runtime; edgec.runtime.Session",
        "import edgec; edgec.Session; edgec.Artifact; edgec.GenerationResult",
        "from edgec.cli import build_app; build_app()",
    ],
)
def test_a_device_loads_nothing_of_the_compiler(code: str) -> None:
    loaded = loaded_by(code)
    assert not [name for name in COMPILE_ONLY if name in loaded]
    assert not {"edgec.compiler", "edgec.models", "edgec.passes"} & loaded


@pytest.mark.parametrize("folder", ALLOWED_IREE)
def test_no_other_part_of_iree_even_later(repository: Path, folder: str) -> None:
    """import-linter sees `iree` as one package; this sees its parts, also inside functions."""
    wrong = []
    for file in (repository / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            parts = {".".join(name.split(".")[:2]) for name in names if name.startswith("iree.")}
            wrong += [f"{file.name}: {part}" for part in parts - ALLOWED_IREE[folder]]
    assert not wrong


def test_import_contracts_hold(repository: Path) -> None:
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [program, "--no-logo", "--no-cache"], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
