"""`edgec models` and `edgec models create`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Edgec = Callable[..., Any]


def test_table_and_json(edgec_in_process: Edgec) -> None:
    done = edgec_in_process("models")
    assert done.code == 0, done.stderr
    assert "preset:qwen3-0.6b" in done.stdout
    assert "596 M" in done.stdout
    rows = json.loads(edgec_in_process("models", "--json").stdout)
    assert {"name", "parameters", "bytes"} <= rows[0].keys()
    assert "bundled:tiny-dense" in [row["name"] for row in rows]


def test_create(edgec_in_process: Edgec, tmp_path: Path) -> None:
    arguments = ["models", "create", "smollm2-135m", "-o", tmp_path / "m", "--layers", "1"]
    done = edgec_in_process(*arguments)
    assert done.code == 0, done.stderr
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    again = edgec_in_process(*arguments)
    assert again.code == 2
    assert "--force" in again.stderr


def test_unknown_preset(edgec_in_process: Edgec, tmp_path: Path) -> None:
    done = edgec_in_process("models", "create", "gpt-9", "-o", tmp_path / "m")
    assert done.code == 2
    assert done.stderr.count("edgec: error: ") == 1
    assert not (tmp_path / "m").exists()
