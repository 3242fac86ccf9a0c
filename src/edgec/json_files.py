"""Reading JSON that strangers wrote, within limits of size and depth.

Whatever is wrong is a ValueError of one line, or an OSError: Python's own reader overflows the
stack on deep nesting, and so does most of what walks a deep value later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["MAX_BYTES", "MAX_DEPTH", "parse_json", "read_json"]

MAX_BYTES = 256 << 20
"""The largest file: a tokenizer of 256,000 tokens has 35 MB."""

MAX_DEPTH = 100
"""Objects and lists in each other: tokenizers and configurations have about ten."""


def read_json(path: Path) -> Any:
    """The value in a UTF-8 file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, too large, or nested too deep.
    """
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MB")
    return parse_json(data)


def parse_json(data: bytes | str, *, strict: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        data: The text; bytes are UTF-8.
        strict: Refuse NaN and Infinity, which JSON lacks, and a key that an object has twice.
            Otherwise both are as in Python's reader, which transformers uses: the last of equal
            keys wins.

    Raises:
        ValueError: not JSON, or nested deeper than `MAX_DEPTH`.
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    try:
        if strict:
            value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        else:
            value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for holder in level for item in _items(holder) if isinstance(item, _HOLDERS)]
        if not level:
            return value
    raise _too_deep()


_HOLDERS = (dict, list)


def _items(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep() -> ValueError:
    return ValueError(f"it is nested deeper than {MAX_DEPTH}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:100]!r} is there twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
