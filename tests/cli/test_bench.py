"""`edgec bench` and `edgec eval`: flags, formats, refusals."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgec.artifact import Artifact
from edgec.cli.bench import parse_tests
from edgec.errors import InputError

FIELDS = {"n_prompt", "n_gen", "n_depth", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts"}


def test_tests_come_in_llama_benchs_order() -> None:
    tests = parse_tests("32,64", "8", ["16,4"], "0,100")
    names = ["pp32", "pp64", "tg8", "pp16+tg4"]
    assert [t.name for t in tests] == names + [f"{name} @ d100" for name in names]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("x", "8", [], "0"), "-p x: must be numbers"),
        (("8", "-1", [], "0"), "-n -1: must be numbers"),
        (("8", "8", ["3"], "0"), "-pg 3: must be two numbers"),
        (("0", "0", [], "0"), "nothing to measure"),
    ],
)
def test_bad_flags(flags: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_tests(*flags)


def test_formats(run_edgec: Callable[..., Any], tiny_dense_artifact: Artifact) -> None:
    """The same tests in every format, with llama-bench's field names."""
    flags = ("-p", "32", "-n", "4", "-pg", "8,2", "-d", "40", "-r", "2")
    found = {
        output: run_edgec("bench", tiny_dense_artifact.path, *flags, "-o", output).stdout
        for output in ("md", "csv", "json", "jsonl")
    }
    lines = [json.loads(line) for line in found["jsonl"].splitlines()]
    for rows in (lines, json.loads(found["json"])):
        assert [(r["n_prompt"], r["n_gen"], r["n_depth"]) for r in rows] == [
            (32, 0, 40),
            (0, 4, 40),
            (8, 2, 40),
        ]
        for row in rows:
            assert row.keys() >= FIELDS
            assert len(row["samples_ts"]) == len(row["samples_ns"]) == 2
            tokens = row["n_prompt"] + row["n_gen"]
            speeds = [tokens / ns * 1e9 for ns in row["samples_ns"]]
            assert row["samples_ts"] == pytest.approx(speeds)
            assert row["avg_ts"] == pytest.approx(sum(speeds) / 2)
    table = list(csv.DictReader(io.StringIO(found["csv"])))
    assert [row["n_gen"] for row in table] == ["0", "4", "2"]
    cells = [line.split("|")[6].strip() for line in found["md"].splitlines()]
    assert cells == ["test", "---:", "pp32 @ d40", "tg4 @ d40", "pp8+tg2 @ d40"]


def test_too_long(run_edgec: Callable[..., Any], tiny_dense_artifact: Artifact) -> None:
    done = run_edgec("bench", tiny_dense_artifact.path, "-p", "999999")
    assert done.returncode == 2 and "pp999999: 999999 tokens, the artifact's context" in done.stderr


def test_perplexity(
    run_edgec: Callable[..., Any], tiny_dense_artifact: Artifact, tmp_path: Path
) -> None:
    """Text like that of the training is far likelier than the same letters in another order."""
    text = "And it came to pass in those days, that there went out a decree. " * 3
    results = []
    for name, content in (("text", text), ("reversed", text[::-1])):
        (tmp_path / name).write_text(content)
        done = run_edgec(
            "eval", "ppl", tmp_path / name, "--artifact", tiny_dense_artifact.path, "--json"
        )
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert results[0]["perplexity"] == pytest.approx(math.exp(results[0]["nll"]))
    assert results[0]["perplexity"] < results[1]["perplexity"] / 4
    missing = run_edgec("eval", "ppl", "absent", "--artifact", tiny_dense_artifact.path)
    assert missing.returncode == 2 and "absent" in missing.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("roofline absent.edgec -o csv", "--output csv: must be md, json, or a file that ends"),
        ("roofline absent.edgec --scenarios X", "scenario 'X': must be one of SISO"),
        ("roofline absent.edgec -p 32", "no such option: -p"),
        ("ablation bundled:tiny-dense -p x", "--n-prompt x: must be numbers"),
        ("ablation bundled:tiny-dense --compile-only", "--compile-only and --measure-only: where?"),
        ("ablation --compile-only --measure-only --keep k", "one at a time"),
        ("ablation --measure-only --keep k", "k: no compiled arms"),
        ("absent.edgec --roofline", "no such option: --roofline"),
    ],
)
def test_flags_of_each_command(
    edgec_in_process: Callable[..., Any], line: str, message: str
) -> None:
    done = edgec_in_process("bench", *line.split())
    assert done.code == 2 and message.lower() in done.stderr.lower()
