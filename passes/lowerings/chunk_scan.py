"""`lower-chunk-scan`: `edgec::chunk_scan` as a loop of matrix products, one turn for each chunk.

Chunks come first in every operand, so that a turn's part of it is one contiguous slice.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.rewriting import (
    TorchTensor,
    call_template,
    custom_ops,
    insert_function,
    is_none,
    parse_torch_tensor,
    symbol_name,
    tensor_type,
)

__all__ = ["LowerChunkScan"]


@dataclass(frozen=True)
class LowerChunkScan:
    """Instantiates one function for each form of the operator in the module."""

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "chunk_scan"):
            query, value = (parse_torch_tensor(op.operands[i].type) for i in (0, 2))
            state = parse_torch_tensor(op.operands[6].type)
            erases = not is_none(op.operands[3])
            if any(d is None for d in query.shape[1:]):
                raise ValueError(f"chunk_scan: only chunks may be many: {query.builtin}")
            symbol = symbol_name("chunk_scan", query, value, "delta" if erases else "")
            insert_function(module, symbol, _template(symbol, query, value, state, erases))
            operands = [v for v in op.operands if not is_none(v)]
            call_template(op, symbol, operands, value, state)


def _template(
    symbol: str, query: TorchTensor, value: TorchTensor, state: TorchTensor, erases: bool
) -> str:
    chunks, heads, tokens, k = query.shape
    v = value.shape[3]
    size = "" if chunks is not None else "%chunks"
    qs, vs = tensor_type((heads, tokens, k), "f32"), tensor_type((heads, tokens, v), "f32")
    aa = tensor_type((chunks, heads, tokens, tokens), "f32")
    as_ = tensor_type((heads, tokens, tokens), "f32")
    dd, ds = tensor_type((chunks, heads, k), "f32"), tensor_type((heads, k), "f32")
    arguments = [f"%query: {query.builtin}", f"%key: {query.builtin}", f"%value: {value.builtin}"]
    arguments += [f"%erase: {query.builtin}"] if erases else []
    arguments += [f"%attention: {aa}", f"%decay: {dd}", f"%state: {state.builtin}"]

    def part(name: str, whole: str, slice_: str, *sizes: int | None) -> str:
        zeros, ones = ", 0" * len(sizes), ", 1" * len(sizes)
        extent = ", ".join(["1", *map(str, sizes)])
        return f"""    %{name}_i = tensor.extract_slice %{name}[%i{zeros}] [{extent}] [1{ones}]
        : {whole} to {slice_}"""

    def product(name: str, maps: str, a: str, ta: str, b: str, tb: str, out: str, to: str) -> str:
        """Adds a batch of products to `out`; `maps` are those of its left and right operand."""
        left, right = maps.split(" * ")
        return f"""    %{name} = linalg.generic {{
        indexing_maps = [affine_map<(h, m, n, k) -> {left}>, affine_map<(h, m, n, k) -> {right}>,
                         affine_map<(h, m, n, k) -> (h, m, n)>],
        iterator_types = ["parallel", "parallel", "parallel", "reduction"]
      }} ins({a}, {b} : {ta}, {tb}) outs({out} : {to}) {{
    ^bb0(%a: f32, %b: f32, %s: f32):
      %p = arith.mulf %a, %b : f32
      %r = arith.addf %s, %p : f32
      linalg.yield %r : f32
    }} -> {to}"""

    s = state.builtin
    parts = [
        part("query", query.builtin, qs, heads, tokens, k),
        part("key", query.builtin, qs, heads, tokens, k),
        part("value", value.builtin, vs, heads, tokens, v),
        part("attention", aa, as_, heads, tokens, tokens),
        part("decay", dd, ds, heads, k),
    ]
    plain, by_state = "(h, m, k) * (h, k, n)", "%s0"
    new = "%value_i"
    if erases:
        parts.append(part("erase", query.builtin, qs, heads, tokens, k))
        parts.append(product("erased", plain, "%erase_i", qs, by_state, s, "%zeros", vs))
        parts.append(f"""    %new = linalg.generic {{
        indexing_maps = [affine_map<(h, t, v) -> (h, t, v)>, affine_map<(h, t, v) -> (h, t, v)>,
                         affine_map<(h, t, v) -> (h, t, v)>],
        iterator_types = ["parallel", "parallel", "parallel"]
      }} ins(%value_i, %erased : {vs}, {vs}) outs(%blank : {vs}) {{
    ^bb0(%a: f32, %b: f32, %unused: f32):
      %r = arith.subf %a, %b : f32
      linalg.yield %r : f32
    }} -> {vs}""")
        new = "%new"
    parts.append(product("read", plain, "%query_i", qs, by_state, s, "%zeros", vs))
    parts.append(product("seen", plain, "%attention_i", as_, new, vs, "%read", vs))
    parts.append(f"""    %decayed = linalg.generic {{
        indexing_maps = [affine_map<(h, k, v) -> (h, k)>, affine_map<(h, k, v) -> (h, k, v)>,
                         affine_map<(h, k, v) -> (h, k, v)>],
        iterator_types = ["parallel", "parallel", "parallel"]
      }} ins(%decay_i, {by_state} : {ds}, {s}) outs(%state_blank : {s}) {{
    ^bb0(%d: f32, %x: f32, %unused: f32):
      %r = arith.mulf %d, %x : f32
      linalg.yield %r : f32
    }} -> {s}""")
    turned = "(h, k, m) * (h, k, n)"
    parts.append(product("s1", turned, "%key_i", qs, new, vs, "%decayed", s))
    body = "\n".join(parts)
    return f"""
util.func private @"{symbol}"({", ".join(arguments)}) -> ({value.builtin}, {s}) {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %zero = arith.constant 0.0 : f32
  %chunks = tensor.dim %query, %c0 : {query.builtin}
  %blank = tensor.empty() : {vs}
  %state_blank = tensor.empty() : {s}
  %zeros = linalg.fill ins(%zero : f32) outs(%blank : {vs}) -> {vs}
  %empty = tensor.empty({size}) : {value.builtin}
  %result:2 = scf.for %i = %c0 to %chunks step %c1
      iter_args(%out = %empty, %s0 = %state) -> ({value.builtin}, {s}) {{
{body}
    %next = tensor.insert_slice %seen into %out[%i, 0, 0, 0] [1, {heads}, {tokens}, {v}]
        [1, 1, 1, 1] : {vs} into {value.builtin}
    scf.yield %next, %s1 : {value.builtin}, {s}
  }}
  util.return %result#0, %result#1 : {value.builtin}, {s}
}}"""
