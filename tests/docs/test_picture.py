"""The drawn picture is that of its text, and the text names what there is."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edgec.passes import LOWERINGS, PASSES
from edgec.passes.kernels.table import LIBRARIES


@pytest.fixture(scope="module")
def drawing(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "scripts" / "picture.py"))


@pytest.fixture(scope="module")
def cards(drawing: dict[str, Any]) -> dict[str, dict[str, Any]]:
    areas = tomllib.loads(drawing["SOURCE"].read_text("utf-8"))["area"]
    return {card["title"]: card for area in areas for card in area["card"]}


def test_the_picture_is_that_of_its_text(drawing: dict[str, Any]) -> None:
    drawn = drawing["picture"](drawing["SOURCE"].read_text("utf-8"))
    assert drawing["PICTURE"].read_text("utf-8") == drawn, "run: python scripts/picture.py"


def test_names_are_those_of_the_code(cards: dict[str, dict[str, Any]], repository: Path) -> None:
    assert sorted(cards["Operators"]["chips"]) == sorted(LOWERINGS)
    assert not set(cards["Passes"]["chips"]) - set(PASSES)
    sources = [library.source for library in LIBRARIES]
    for chip in cards["Kernels"]["chips"]:
        assert any(source.startswith(chip) for source in sources)
    for name in ("Plug points", "Operators", "Passes", "Kernels", "Runtime"):
        assert (repository / cards[name]["where"]).is_dir()
