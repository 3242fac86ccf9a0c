"""The page: whole in itself, with every plot and table; and comparisons of results."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgec.bench.machine import Load, describe
from edgec.bench.report import write_report
from edgec.bench.samples import spread
from edgec.bench.tables import tables_of, to_markdown
from edgec.errors import InputError


def script(repository: Path, name: str) -> ModuleType:
    """A file of `benchmarks/` as a module."""
    path = repository / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def peers_result() -> dict[str, Any]:
    def engine(speeds: dict[str, list[float]], weights: str) -> dict[str, Any]:
        tests = {
            test: {
                "samples": [{"tokens_per_second": s, "others": 0.0} for s in samples],
                "median": samples[1],
                "spread": spread(samples),
                "disturbed": 0,
            }
            for test, samples in speeds.items()
        }
        return {"weights": weights, "version": "1", "settings": "", "model_bytes": 450,
                "tests": tests, "peak_rss_mb": 300.0,
                "load_to_first_token_seconds": [0.5]}  # fmt: skip

    return {
        "benchmark": "peers", "machine": describe(), "model": "preset:m", "layers": None,
        "parameters": 800, "threads": 2, "tests": ["pp32", "tg64@0"],
        "formats": {
            "int4": {
                "edgec": engine(
                    {"pp32": [98.0, 100.0, 102.0], "tg64@0": [9.0, 10.0, 11.0]}, "int4"
                ),
                "llama.cpp": engine({"pp32": [50.0, 50.0, 51.0], "tg64@0": [20.0] * 3}, "Q4_0"),
                "torch eager": {"absent": "no quantised layers"},
            }
        },
    }  # fmt: skip


def test_a_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    one = peers_result()
    page = write_report(tmp_path, [one, one]).read_text()
    assert page.count("<svg") == 2 and page.count("<table>") == 2
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"|url\((?!#)', without_namespaces)
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names)), "the drawings' names must differ"
    used = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used <= set(names)
    assert (tmp_path / "peers-int4.png").exists() and (tmp_path / "peers-int4-2.svg").exists()


def test_peers_in_a_table() -> None:
    text = to_markdown(tables_of(peers_result()))
    assert "| edgec | int4 | 4.5 | 100.0 ± 1 % | 10.0 ± 5 % | 0.50 | 300 |" in text
    assert "| edgec ÷ best peer |  |  | 2.00 | 0.50 |  |  |" in text
    assert "- torch eager is absent: no quantised layers." in text


def test_a_foreign_result_is_refused() -> None:
    with pytest.raises(InputError, match="benchmark 'sheep': must be one of"):
        tables_of({"benchmark": "sheep"})


def test_no_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"matplotlib.*pip install 'edgec\[bench\]'"):
        write_report(tmp_path, [peers_result()])


def test_what_moved(repository: Path) -> None:
    """Beyond both spreads, and 3 %: a quarter slower is told, a wobble is not."""
    compare = script(repository, "compare")
    old, new = peers_result(), peers_result()
    edgec = new["formats"]["int4"]["edgec"]["tests"]
    for sample in edgec["pp32"]["samples"]:
        sample["tokens_per_second"] *= 0.75
    for sample in edgec["tg64@0"]["samples"]:
        sample["tokens_per_second"] *= 1.09
    changes = compare.moved(compare.measured(old), compare.measured(new))
    assert [(name, round(ratio, 2)) for name, ratio, _ in changes] == [("int4 edgec pp32", 0.75)]


def test_disturbed_samples_are_left_out(repository: Path) -> None:
    compare = script(repository, "compare")
    result = peers_result()
    samples = result["formats"]["int4"]["edgec"]["tests"]["pp32"]["samples"]
    for sample in samples:
        sample["others"] = 1.5
    assert "int4 edgec pp32" not in compare.measured(result)
    assert "int4 edgec tg64@0" in compare.measured(result)


def test_compare_on_the_command_line(repository: Path, tmp_path: Path) -> None:
    """Exit codes: 0 nothing slower, 1 something slower, 2 not comparable."""
    files = {name: tmp_path / f"{name}.json" for name in ("old", "slow", "other", "threads")}
    result = peers_result()
    files["old"].write_text(json.dumps(result))
    slow = copy.deepcopy(result)
    for sample in slow["formats"]["int4"]["edgec"]["tests"]["pp32"]["samples"]:
        sample["tokens_per_second"] /= 2
    files["slow"].write_text(json.dumps(slow))
    files["other"].write_text(json.dumps(result | {"machine": describe() | {"cores": 512}}))
    files["threads"].write_text(json.dumps(result | {"threads": 4}))

    def run(new: str) -> tuple[int, str]:
        command = [sys.executable, str(repository / "benchmarks" / "compare.py")]
        done = subprocess.run(
            [*command, str(files["old"]), str(files.get(new, new))], capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    assert run("old") == (0, "4 compared, 0 moved beyond noise\n")
    code, text = run("slow")
    assert code == 1 and "int4 edgec pp32: 100.0 → 50.0 tokens/s, 50% slower" in text
    code, text = run("other")
    assert code == 2 and "results of different machines cannot be compared: cores:" in text
    code, text = run("threads")
    assert code == 2 and "threads differs: 2 and 4" in text
    code, text = run("absent.json")
    assert code == 2 and "absent.json: No such file" in text


def test_llama_bench_results_are_compared_too(repository: Path) -> None:
    compare = script(repository, "compare")
    row = {"n_prompt": 32, "n_gen": 0, "n_depth": 0, "model_type": "m f32", "backends": "cpu:x",
           "n_threads": 2, "cpu_info": "CPU", "samples_ts": [10.0, 10.1]}  # fmt: skip
    compare.check_comparable([row], [row])
    assert compare.measured([row])["m f32 pp32 tg0 d0"].median == pytest.approx(10.05)
    with pytest.raises(InputError, match="different machines"):
        compare.check_comparable([row], [row | {"cpu_info": "another"}])


def test_the_load_of_others_is_seen() -> None:
    """A process that is not ours and computes is load; the same one, named, is not."""
    spin = "import time\nend = time.time() + 30\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as other:
        try:
            import time

            time.sleep(0.3)
            with Load() as load:
                time.sleep(1.0)
            with Load((other.pid,)) as named:
                time.sleep(1.0)
        finally:
            other.kill()
    # Other tests may run beside this one: only the spinning process is certain.
    assert load.others > 0.2
    assert named.others < load.others + 3


def test_unknown_models_and_engines(repository: Path, tmp_path: Path) -> None:
    peers = repository / "benchmarks" / "peers.py"

    def run(*arguments: str) -> str:
        command = [sys.executable, str(peers), *arguments, "--cache-dir", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode != 0
        return done.stderr

    assert "must be preset:NAME, one of" in run("preset:nothing")
    assert "must be of none, int8, int4" in run("preset:smollm2-135m", "--quantize", "int3")
    assert "must be of edgec, llama.cpp" in run("preset:smollm2-135m", "--engines", "gpt")


@pytest.mark.parametrize(
    "name",
    ["compare", "footprint", "moe", "padding", "peers", "quality", "report", "server", "serving"],
)  # fmt: skip
def test_every_script_starts(repository: Path, name: str) -> None:
    """Imports and options; what they measure is tested with the code that they call."""
    command = [sys.executable, f"benchmarks/{name}.py", "--help"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout.lower()
