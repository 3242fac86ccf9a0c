"""Helpers that the passes share: walking, replacing, MLIR text as private functions."""

from __future__ import annotations

import re

from iree.compiler import ir

from edgec.passes.emit import Tensor

__all__ = [
    "call_before",
    "call_template",
    "call_together",
    "constant_bool",
    "constant_float",
    "constant_int",
    "custom_ops",
    "cut_fusion",
    "insert_function",
    "is_none",
    "parse_torch_tensor",
    "symbol_name",
    "walk",
]

_TORCH_TENSOR = re.compile(r"^!torch\.vtensor<\[(?P<shape>[^\]]*)\],(?P<dtype>\w+)>$")
_BUILTIN_DTYPE = {"si64": "i64", "si32": "i32", "si8": "i8", "ui8": "i8", "i1": "i1"}


def parse_torch_tensor(type_: ir.Type) -> Tensor:
    """Takes `!torch.vtensor<[1,?,64],f32>` apart; raises ValueError for any other type."""
    match = _TORCH_TENSOR.match(str(type_))
    if match is None:
        raise ValueError(f"expected a !torch.vtensor with known rank, got {type_}")
    text = match["shape"]
    shape = tuple(None if d == "?" else int(d) for d in text.split(",")) if text else ()
    return Tensor(shape, _BUILTIN_DTYPE.get(match["dtype"], match["dtype"]))


def walk(op: ir.Operation) -> list[ir.Operation]:
    """All operations below `op`, outermost first; a list, so that they may be erased on the way.

    Pick from it before the first is erased: those inside an erased operation, or other handles of
    it, then point at freed memory.
    """
    found: list[ir.Operation] = []
    for region in op.regions:
        for block in region.blocks:
            for child in block.operations:
                found.append(child.operation)
                found += walk(child.operation)
    return found


def custom_ops(module: ir.Module, name: str) -> list[ir.Operation]:
    """Every `torch.operator "torch.edgec.<name>"` in the module."""
    wanted = f"torch.edgec.{name}"
    return [
        op
        for op in walk(module.operation)
        if op.name == "torch.operator" and ir.StringAttr(op.attributes["name"]).value == wanted
    ]


def constant_int(value: ir.Value) -> int:
    """The value of a `torch.constant.int`; raises ValueError when it is not one."""
    return int(ir.IntegerAttr(_constant(value, "torch.constant.int")).value)


def constant_float(value: ir.Value) -> float:
    """The value of a `torch.constant.float`; raises ValueError when it is not one."""
    return float(ir.FloatAttr(_constant(value, "torch.constant.float")).value)


def _constant(value: ir.Value, name: str) -> ir.Attribute:
    if isinstance(value.owner, ir.Block) or value.owner.operation.name != name:
        raise ValueError(f"expected a {name}, got {value.owner}")
    return value.owner.operation.attributes["value"]


def constant_bool(value: ir.Value) -> bool:
    """The value of a `torch.constant.bool`; raises ValueError when it is not one."""
    return bool(ir.IntegerAttr(_constant(value, "torch.constant.bool")).value)


def is_none(value: ir.Value) -> bool:
    """Whether an operand is torch's None."""
    return str(value.type) == "!torch.none"


def symbol_name(op: str, *parts: Tensor | str) -> str:
    """A name that carries everything an instance of a lowering depends on."""
    labels = (part.label if isinstance(part, Tensor) else part for part in parts)
    return ".".join(["edgec", op, *(label for label in labels if label)])


def insert_function(module: ir.Module, symbol: str, text: str) -> None:
    """Adds what `text` defines to `module`: the function `symbol` and what it refers to.

    A name carries everything that its text depends on, so that equal instances are shared.
    """
    present = {
        ir.StringAttr(op.attributes["sym_name"]).value
        for op in module.body.operations
        if "sym_name" in op.attributes
    }
    if symbol in present:
        return
    parsed = ir.Module.parse(text, module.context)
    for op in list(parsed.body.operations):
        if ir.StringAttr(op.attributes["sym_name"]).value not in present:
            module.body.append(op.operation.clone())


def call_template(
    op: ir.Operation, symbol: str, operands: list[ir.Value], *results: Tensor
) -> None:
    """Replaces `op` by a call of the private function `symbol` over builtin tensors."""
    assert len(results) == len(op.results)
    for result, known in zip(op.results, results, strict=True):
        # Of a result that is not used the export states no shape: it may still be dynamic here.
        if not any(True for _ in result.uses) and None not in known.shape:
            dims, dtype = ",".join(map(str, known.shape)), str(result.type).rpartition(",")[2]
            result.set_type(ir.Type.parse(f"!torch.vtensor<[{dims}],{dtype}", op.context))
    call_together([op], symbol, operands)


def call_together(ops: list[ir.Operation], symbol: str, operands: list[ir.Value]) -> None:
    """Replaces `ops` by one call at the place of the first, which has all their results."""
    old = [result for op in ops for result in op.results]
    results = call_before(ops[0], symbol, operands, [result.type for result in old])
    for before, new in zip(old, results, strict=True):
        before.replace_all_uses_with(new)
    for op in ops:
        op.erase()


def call_before(
    op: ir.Operation, symbol: str, operands: list[ir.Value], results: list[ir.Type]
) -> list[ir.Value]:
    """Calls the private function `symbol` over builtin tensors, before `op`.

    Args:
        operands: Torch tensors.
        results: Types of torch tensors, as those that are returned have them.
    """
    context = op.context
    with ir.InsertionPoint(op), op.location:
        types = [parse_torch_tensor(type_).builtin for type_ in results]
        call = ir.Operation.create(
            "util.call",
            results=[ir.Type.parse(type_, context) for type_ in types],
            operands=[_to_builtin(value) for value in operands],
            attributes={"callee": ir.FlatSymbolRefAttr.get(symbol, context)},
        )
        return [_from_builtin(v, t) for v, t in zip(call.results, results, strict=True)]


def cut_fusion(value: ir.Value) -> None:
    """Puts a barrier between the operation that makes a tensor and those that read it.

    IREE takes it away once it has formed its dispatches, none of which goes across it.
    """
    tensor = ir.RankedTensorType(value.type)
    with ir.InsertionPoint.after(value.owner), value.owner.location:
        sizes = []
        for axis in range(tensor.rank):
            if tensor.is_dynamic_dim(axis):
                index = ir.Operation.create(
                    "arith.constant",
                    results=[ir.IndexType.get()],
                    attributes={"value": ir.IntegerAttr.get(ir.IndexType.get(), axis)},
                )
                size = ir.Operation.create(
                    "tensor.dim",
                    results=[ir.IndexType.get()],
                    operands=[value, index.results[0]],
                )
                sizes.append(size)
        barrier = ir.Operation.create(
            "iree_tensor_ext.compute_barrier.start",
            results=[value.type],
            operands=[value, *(size.results[0] for size in sizes)],
        )
    value.replace_all_uses_except(barrier.results[0], [*sizes, barrier])


def _from_builtin(value: ir.Value, type_: ir.Type) -> ir.Value:
    signed = _signed(type_)
    if signed is not None:
        value = _create("tensor.bitcast", value, signed)
    return _create("torch_c.from_builtin_tensor", value, type_)


def _to_builtin(value: ir.Value) -> ir.Value:
    type_ = ir.Type.parse(parse_torch_tensor(value.type).builtin, value.context)
    signed = _signed(value.type)
    # An argument that is only read is imported as it is.
    if signed is None or isinstance(value.owner, ir.Block):
        return _create("torch_c.to_builtin_tensor", value, type_)
    # Back to what it was made of: a weight, or the result of another call.
    inner = value
    for name in ("torch_c.from_builtin_tensor", "tensor.bitcast"):
        if not isinstance(inner.owner, ir.Block) and inner.owner.operation.name == name:
            inner = inner.owner.operation.operands[0]
    if inner.type == type_:
        return inner
    return _create("tensor.bitcast", _create("torch_c.to_builtin_tensor", value, signed), type_)


def _signed(type_: ir.Type) -> ir.Type | None:
    """The builtin type of an i8 torch tensor, with its sign.

    IREE imports a buffer of i8 that is written to as `si8`, which it cannot convert to the `i8` of
    all other tensors. A bitcast between them can stay; `state-in-place` removes it.
    """
    tensor = parse_torch_tensor(type_)
    if tensor.dtype != "i8":
        return None
    return ir.Type.parse(tensor.of("si8").builtin, type_.context)


def _create(name: str, operand: ir.Value, result: ir.Type) -> ir.Value:
    return ir.Operation.create(name, results=[result], operands=[operand]).results[0]
