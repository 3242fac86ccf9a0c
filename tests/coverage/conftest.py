"""Tests of all families run only when they are asked for: `-m full`."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "full" in config.option.markexpr:
        return
    config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("full")])
    items[:] = [item for item in items if not item.get_closest_marker("full")]
