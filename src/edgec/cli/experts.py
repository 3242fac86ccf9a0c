"""`edgec run --stats experts`: how the tokens were spread over each layer's experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgec.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from edgec.runtime import Session

__all__ = ["check_counts", "expert_table"]

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 64  # characters of a histogram; of more experts, neighbours share one


def check_counts(session: Session) -> None:
    """Raises InputError unless the program counts."""
    manifest = session.artifact.manifest
    if any(buffer.kind == "expert_counts" for buffer in manifest.state):
        return
    if not manifest.model.experts:
        raise InputError(f"--stats experts: {manifest.model.id} has no experts")
    raise InputError(
        "--stats experts: the artifact does not count", "compile it with --expert-stats"
    )


def expert_table(counts: Sequence[Any]) -> Table:
    """A row for each layer.

    Args:
        counts: i64[experts] for each layer with experts: the tokens that each got.
    """
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("layer", "load per expert", "busiest", "x mean", "unused"):
        table.add_column(name, justify="left" if name == "load per expert" else "right")
    for layer, load in enumerate(counts):
        total, busiest = int(load.sum()), int(load.argmax())
        mean = total / len(load)
        table.add_row(
            str(layer),
            histogram([int(c) for c in load]),
            f"{busiest} ({int(load[busiest]) / max(total, 1):.0%})",
            f"{int(load[busiest]) / mean:.1f}" if total else "-",
            str(int((load == 0).sum())),
        )
    return table


def histogram(counts: list[int]) -> str:
    """A bar for each expert, the highest full; of many experts, one for several neighbours."""
    per_bar = -(-len(counts) // _WIDTH)
    bars = [sum(counts[i : i + per_bar]) for i in range(0, len(counts), per_bar)]
    most = max([*bars, 1])
    # What is not zero can be seen.
    return "".join(_BARS[-(-b * (len(_BARS) - 1) // most)] for b in bars)
