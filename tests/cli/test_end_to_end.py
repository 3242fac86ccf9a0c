"""The commands on the bundled model, each in a process of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.manifests import rewrite_manifest

from edgec.artifact import Artifact, sha256_of

RunEdgec = Callable[..., Any]


def test_run_streams_what_json_says(run_edgec: RunEdgec, tiny_dense_artifact: Artifact) -> None:
    arguments = ["run", tiny_dense_artifact.path, "-p", "In the", "-n", "8", "--temperature", "0"]
    streamed, whole = run_edgec(*arguments), run_edgec(*arguments, "--json")
    assert streamed.returncode == whole.returncode == 0, streamed.stderr + whole.stderr
    result = json.loads(whole.stdout)
    assert streamed.stdout == result["text"] + "\n"
    assert "tok/s" in streamed.stderr
    assert whole.stderr == ""
    assert result["finish_reason"] == "length"
    assert len(result["tokens"]) == result["usage"]["completion_tokens"] == 8
    assert result["timings"].keys() == {
        "prompt_ms", "prompt_per_second", "decode_ms", "decode_per_second",
        "time_to_first_token_ms", "peak_rss_mb",
    }  # fmt: skip


def test_same_seed_same_text(run_edgec: RunEdgec, tiny_dense_artifact: Artifact) -> None:
    arguments = ["run", tiny_dense_artifact.path, "-p", "And", "-n", "16", "--temp", "1.5", "-s"]
    first, second, other = (run_edgec(*arguments, seed).stdout for seed in ("1", "1", "2"))
    assert first == second != other


def test_chat_computes_only_what_is_new(run_edgec: RunEdgec, tiny_dense_artifact: Artifact) -> None:
    turns = (
        "/set max_new_tokens=40\n/set ignore_eos=true\nWho art thou?\nAnd then?\n/stats\n/exit\n"
    )
    done = run_edgec("chat", tiny_dense_artifact.path, input=turns)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    cached = [line for line in done.stdout.splitlines() if line.startswith("cached ")]
    assert len(cached) == 1
    assert int(cached[0].split()[1]) > 0


def test_a_template_that_fills_the_memory(
    run_edgec: RunEdgec, tiny_dense_artifact: Artifact, tmp_path: Path
) -> None:
    """An error of the chat, in `run` and in `chat`; text is completed all the same."""
    folder = tmp_path / "m.edgec"
    shutil.copytree(tiny_dense_artifact.path, folder)
    template = folder / "chat_template.jinja"
    template.write_text("{{ 'x' * 10**10 }}")
    manifest = json.loads((folder / "manifest.json").read_text())
    size = template.stat().st_size
    manifest["files"][template.name] = {"size": size, "sha256": sha256_of(template)}
    rewrite_manifest(folder, manifest)
    says = "the model's chat template failed: MemoryError"
    asked = run_edgec("run", folder, "-p", "Hi", "--chat", "-n", "2")
    assert (asked.returncode, says in asked.stderr) == (2, True), asked.stderr
    talked = run_edgec("chat", folder, input="Hi\n/exit\n")
    assert says in talked.stderr + talked.stdout
    assert run_edgec("run", folder, "-p", "Hi", "-n", "2").returncode == 0


def test_inspect(run_edgec: RunEdgec, tiny_dense_artifact: Artifact) -> None:
    done = run_edgec("inspect", tiny_dense_artifact.path, "--verify")
    assert done.returncode == 0, done.stderr
    assert "bundled:tiny-dense" in done.stdout
    assert "match their SHA-256" in done.stdout


def test_compile_twice(run_edgec: RunEdgec, tmp_path: Path) -> None:
    """Equal options: the second compile finds the first's result. Others: refused, or forced."""
    arguments = ["compile", "bundled:tiny-dense", "-c", "256", "-o", tmp_path / "t.edgec"]
    first = run_edgec(*arguments, "--json")
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)
    assert report["artifact"] == str(tmp_path / "t.edgec")
    assert report["compiled"] is True
    assert report["peak_rss_mb"] > 100
    second = json.loads(run_edgec(*arguments, "--json").stdout)
    assert second["compiled"] is False
    assert second["digest"] == report["digest"]
    other = run_edgec(*arguments, "--dtype", "f16")
    assert other.returncode == 2
    assert "--force" in other.stderr.splitlines()[-1]
    forced = run_edgec(*arguments, "--dtype", "f16", "--force", "--json")
    assert json.loads(forced.stdout)["digest"] != report["digest"]


@pytest.mark.compiles
def test_run_compiles_a_model_into_the_cache(run_edgec: RunEdgec, tmp_path: Path) -> None:
    arguments = ["run", "bundled:tiny-dense", "-p", "In the", "-n", "2", "--cache-dir", tmp_path]
    first = run_edgec(*arguments)
    assert first.returncode == 0, first.stderr
    assert "stage " in first.stderr
    assert list(tmp_path.glob("*.edgec/manifest.json"))
    assert run_edgec(*arguments, "--json").returncode == 0
