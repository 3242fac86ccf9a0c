"""The kernels' results, computed in plain numpy: the tests' yardstick."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["attention", "head_rows", "quantize_rows", "quantized_linear"]

_BLOCK = 32


def quantize_rows(
    x: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Rounds activations to int8 in blocks of 32 columns.

    Args:
        x: `[M, K]`.

    Returns:
        Integers i8 `[M, K]`, -127 to 127, ties to even; scales f32 `[M, K / 32]`.
    """
    blocks = x.reshape(x.shape[0], x.shape[1] // _BLOCK, _BLOCK)
    most = np.abs(blocks).max(axis=-1)
    inverse = np.where(most > 1e-30, np.float32(127) / np.maximum(most, np.float32(1e-30)), 0)
    integers = np.rint(blocks * inverse[..., None].astype(np.float32)).astype(np.int8)
    return integers.reshape(x.shape), (most / np.float32(127)).astype(np.float32)


def quantized_linear(
    x: npt.NDArray[np.float32],
    values: npt.NDArray[Any],
    scales: npt.NDArray[Any],
    minima: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.float64]:
    """`x @ w.T` as the kernels compute it: integer sums a block, scaled and added in floats.

    Args:
        x: `[M, K]`.
        values: Integers of the weights, `[N, K]`.
        scales: `[N, K / group]`, a weight is its integer times its scale.
        minima: `[N, K / group]` or None; subtracted from each weight.

    Returns:
        f64 `[M, N]`; the kernels add in f32.
    """
    q, s = quantize_rows(x)
    m, k = x.shape
    groups = scales.shape[1]
    span = min(k // groups, _BLOCK)  # columns that share both scales
    a = q.reshape(m, k // span, span).astype(np.int64)
    w = values.reshape(-1, k // span, span).astype(np.int64)
    steps = np.repeat(s.astype(np.float64), _BLOCK // span, axis=1)
    each = np.repeat(scales.astype(np.float64), k // span // groups, axis=1)
    sums = np.einsum("msk,nsk->mns", a, w)
    result: npt.NDArray[np.float64] = np.einsum("mns,ms,ns->mn", sums, steps, each)
    if minima is not None:
        offsets = np.repeat(minima.astype(np.float64), k // span // groups, axis=1)
        result -= np.einsum("ms,ms,ns->mn", a.sum(axis=-1), steps, offsets)
    return result


def attention(
    query: npt.NDArray[np.float32],
    keys: npt.NDArray[Any],
    values: npt.NDArray[Any],
    start: int,
    scale: float,
    window: int,
    softcap: float,
    sinks: npt.NDArray[np.float32] | None,
) -> npt.NDArray[np.float64]:
    """Causal attention with grouped heads, see `edgec::attention`.

    Args:
        query: `[heads, tokens, width]`.
        keys: `[capacity, kv_heads, width]`, position p in row `p % capacity`; `values` likewise.
        start: Position of the first token.
        scale: Factor of the scores.
        window: In tokens, or 0.
        softcap: Or 0.
        sinks: `[heads]` or None.

    Returns:
        f64 `[tokens, heads, value_width]`.
    """
    heads, tokens, _ = query.shape
    group = heads // keys.shape[1]
    result = np.zeros((tokens, heads, values.shape[2]))
    for head in range(heads):
        for token in range(tokens):
            last = start + token
            rows = np.arange(max(0, last + 1 - window) if window else 0, last + 1) % len(keys)
            k, v = (a[rows, head // group].astype(np.float64) for a in (keys, values))
            scores = k @ query[head, token].astype(np.float64) * scale
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            sink = [] if sinks is None else [float(sinks[head])]
            weights = np.exp(scores - max([scores.max(), *sink]))
            rest = sum(np.exp(s - max(scores.max(), s)) for s in sink)
            result[token, head] = weights @ v / (weights.sum() + rest)
    return result


def head_rows(
    x: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32] | None,
    epsilon: float | None,
    cos: npt.NDArray[np.float32],
    sin: npt.NDArray[np.float32],
    rotated: int,
) -> npt.NDArray[np.float64]:
    """Rows as attention takes them: an RMS norm, then the rotation of the first columns.

    Args:
        x: `[tokens, heads, width]`.
        weights: `[width]` or None.
        epsilon: None without a norm.
        cos: `[tokens, rotated]`, or half as wide; `sin` likewise.
        rotated: Columns that are rotated, or 0.

    Returns:
        f64, of the shape of `x`.
    """
    rows: npt.NDArray[np.float64] = x.astype(np.float64)
    if epsilon is not None:
        rows = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + epsilon)
        rows = rows if weights is None else rows * weights
    half = rotated // 2
    c, s = (
        np.tile(t, 2 if t.shape[1] == half else 1)[:, None].astype(np.float64) for t in (cos, sin)
    )
    turned = rows[..., :rotated]
    if rotated:
        crossed = np.concatenate([-turned[..., half:], turned[..., :half]], axis=-1)
        turned = turned * c + crossed * s
    return np.concatenate([turned, rows[..., rotated:]], axis=-1)
