"""`lower-causal-conv`: `edgec::causal_conv` as one element-wise operation over shifted rows.

A product for each row of the kernel, which has three or four, over slices of the same rows: code
that every target turns into vectors. As a convolution it would be run element by element.

The state is a ring, so that a decode step writes one row of it in place and moves none.
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

__all__ = ["LowerCausalConv"]


@dataclass(frozen=True)
class LowerCausalConv:
    """Instantiates one function for each form of the operator in the module."""

    def run(self, module: ir.Module) -> None:
        for op in custom_ops(module, "causal_conv"):
            x, state, weight = (parse_torch_tensor(v.type) for v in op.operands[:3])
            bias, length = (not is_none(op.operands[i]) for i in (3, 5))
            columns, width = state.shape[0], weight.shape[1]
            if columns is None or width is None or not 1 < width <= columns:
                raise ValueError(f"causal_conv: {weight.builtin} with state {state.builtin}")
            form = "biased" if bias else ""
            symbol = symbol_name("causal_conv", x, state, weight, form, "" if length else "full")
            text = _template(symbol, x, state, weight, bias, length)
            insert_function(module, symbol, text)
            call_template(op, symbol, [v for v in op.operands if not is_none(v)], x, state)


def _template(
    symbol: str, x: TorchTensor, state: TorchTensor, weight: TorchTensor, bias: bool, length: bool
) -> str:
    arguments = [f"%x: {x.builtin}", f"%state: {state.builtin}", f"%weight: {weight.builtin}"]
    arguments += [f"%bias: tensor<{x.shape[1]}xf32>"] if bias else []
    arguments += ["%start: tensor<i64>"] + (["%length: tensor<i64>"] if length else [])
    prefix = f"""
util.func private @"{symbol}"({", ".join(arguments)}) -> ({x.builtin}, {state.builtin}) {{
  %c0 = arith.constant 0 : index
  %columns = arith.constant {state.shape[0]} : index
  %zero = arith.constant 0.0 : f32
  %start_i64 = tensor.extract %start[] : tensor<i64>
  %start_any = arith.index_cast %start_i64 : i64 to index
  %first = util.assume.int %start_any<umin = 0> : index"""
    body = _one(x, state, weight) if x.shape[0] == 1 else _many(x, state, weight, length)
    return f"""{prefix}
{body}
{_products(x, weight, bias)}
  util.return %result, %new : {x.builtin}, {state.builtin}
}}"""


def _one(x: TorchTensor, state: TorchTensor, weight: TorchTensor) -> str:
    """One token: its row goes into the ring, and the rows are read from there."""
    width, columns, channels = weight.shape[1], state.shape[0], x.shape[1]
    assert width is not None and columns is not None
    lines = [
        "  %row = arith.remui %first, %columns : index",
        f"""  %new = tensor.insert_slice %x into %state[%row, 0] [1, {channels}] [1, 1]
      : {x.builtin} into {state.builtin}""",
    ]
    for j in range(width):
        lines += [
            f"  %back{j} = arith.constant {columns + 1 + j - width} : index",
            f"  %at{j} = arith.addi %first, %back{j} : index",
            f"  %row{j} = arith.remui %at{j}, %columns : index",
            f"""  %x{j} = tensor.extract_slice %new[%row{j}, 0] [1, {channels}] [1, 1]
      : {state.builtin} to {x.builtin}""",
        ]
    return "\n".join(lines)


def _many(x: TorchTensor, state: TorchTensor, weight: TorchTensor, length: bool) -> str:
    """A block: its rows after the last ones before it; of the true ones the last are kept."""
    width, columns, channels = weight.shape[1], state.shape[0], x.shape[1]
    assert width is not None and columns is not None
    tokens = "%tokens" if x.shape[0] is None else x.shape[0]
    past = tensor_type((width - 1, channels), "f32")
    rows = None if x.shape[0] is None else x.shape[0] + width - 1
    every = tensor_type((rows, channels), "f32")
    true = (
        """%length_i64 = tensor.extract %length[] : tensor<i64>
  %true = arith.index_cast %length_i64 : i64 to index"""
        if length
        else "%true = arith.addi %tokens, %c0 : index"
    )
    lines = [
        f"""  %tokens = tensor.dim %x, %c0 : {x.builtin}
  {true}
  %past_empty = tensor.empty() : {past}
  %back = arith.constant {columns + 1 - width} : index
  %past = linalg.generic {{
      indexing_maps = [affine_map<(i, c) -> (i, c)>],
      iterator_types = ["parallel", "parallel"]
    }} outs(%past_empty : {past}) {{
  ^bb0(%unused: f32):
    %i = linalg.index 0 : index
    %c = linalg.index 1 : index
    %p = arith.addi %first, %i : index
    %at = arith.addi %p, %back : index
    %row = arith.remui %at, %columns : index
    %v = tensor.extract %state[%row, %c] : {state.builtin}
    linalg.yield %v : f32
  }} -> {past}
  %every = tensor.concat dim(0) %past, %x : ({past}, {x.builtin}) -> {every}
  %end = arith.addi %first, %true : index
  %one = arith.constant 1 : index
  %last = arith.subi %end, %one : index
  %new = linalg.generic {{
      indexing_maps = [affine_map<(r, c) -> (r, c)>],
      iterator_types = ["parallel", "parallel"]
    }} outs(%state : {state.builtin}) {{
  ^bb0(%old: f32):
    %r = linalg.index 0 : index
    %c = linalg.index 1 : index
    %ahead = arith.addi %last, %columns : index
    %distance = arith.subi %ahead, %r : index
    %age = arith.remui %distance, %columns : index
    %p = arith.subi %last, %age : index
    %t = arith.subi %p, %first : index
    %taken = arith.cmpi sge, %t, %c0 : index
    %at = arith.maxsi %t, %c0 : index
    %v = tensor.extract %x[%at, %c] : {x.builtin}
    %kept = arith.select %taken, %v, %old : f32
    linalg.yield %kept : f32
  }} -> {state.builtin}"""
    ]
    lines += [
        f"  %x{j} = tensor.extract_slice %every[{j}, 0] [{tokens}, {channels}] [1, 1]"
        f" : {every} to {x.builtin}"
        for j in range(width)
    ]
    return "\n".join(lines)


def _products(x: TorchTensor, weight: TorchTensor, bias: bool) -> str:
    """The weighted sum of `%x0`, `%x1`, ..., and of the bias."""
    width, channels = weight.shape[1], x.shape[1]
    assert width is not None
    column = f"tensor<{channels}xf32>"
    size = "" if x.shape[0] is not None else "%tokens"
    lines = [
        f"  %w{j} = tensor.extract_slice %weight[0, {j}] [{channels}, 1] [1, 1]"
        f" : {weight.builtin} to {column}"
        for j in range(width)
    ]
    names = [f"%x{j}" for j in range(width)] + [f"%w{j}" for j in range(width)]
    names += ["%bias"] if bias else []
    types = [x.builtin] * width + [column] * (width + bias)
    maps = ["affine_map<(t, c) -> (t, c)>"] * width + ["affine_map<(t, c) -> (c)>"] * (width + bias)
    blocks = [f"%a{j}: f32" for j in range(width)] + [f"%b{j}: f32" for j in range(width)]
    blocks += ["%sum0: f32"] if bias else []
    first = "%sum0" if bias else "%zero"
    sums = []
    for j in range(width):
        sums.append(f"    %p{j} = arith.mulf %a{j}, %b{j} : f32")
        sums.append(f"    %s{j} = arith.addf {f'%s{j - 1}' if j else first}, %p{j} : f32")
    body = "\n".join(sums)
    return (
        "\n".join(lines)
        + f"""
  %empty = tensor.empty({size}) : {x.builtin}
  %result = linalg.generic {{
      indexing_maps = [{", ".join([*maps, "affine_map<(t, c) -> (t, c)>"])}],
      iterator_types = ["parallel", "parallel"]
    }} ins({", ".join(names)} : {", ".join(types)}) outs(%empty : {x.builtin}) {{
  ^bb0({", ".join(blocks)}, %unused: f32):
{body}
    linalg.yield %s{width - 1} : f32
  }} -> {x.builtin}"""
    )
