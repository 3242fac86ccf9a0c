"""The weights' mapping: what the kernel was told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.runtime.weights import map_weights

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not THP.exists(), reason="a kernel without large pages")
def test_large_pages_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "w.irpa"
    path.write_bytes(bytes(5 << 20))
    handle = map_weights(path)
    assert handle.is_host_allocation
    lines = Path("/proc/self/smaps").read_text("utf-8").splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    flags = next(line for line in lines[at:] if line.startswith("VmFlags:"))
    assert "hg" in flags.split()
    assert " r--s " in lines[at]
