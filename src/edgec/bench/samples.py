"""How far repetitions of a measurement lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

__all__ = ["spread"]


def spread(samples: Sequence[float]) -> float:
    """Half the interquartile range over the median: a few outliers do not count."""
    if len(samples) < 2:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / 2 / statistics.median(samples)
