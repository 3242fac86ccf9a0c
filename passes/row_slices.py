"""`row-slices`: the pick of one row at a position that the host knows is a slice, not a gather.

An index in a tensor is 64 bits wide on the device, where some GPUs have no such numbers, and is
read there for every element. An offset is a number of the call.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.emit import Tensor
from edgec.passes.rewriting import is_none, parse_torch_tensor, walk

__all__ = ["RowSlices"]

_RESHAPES = ("torch.aten.view", "torch.aten.reshape", "torch.aten.unsqueeze")
_DYNAMIC = ir.ShapedType.get_dynamic_stride_or_offset()


@dataclass(frozen=True)
class RowSlices:
    """Rewrites `torch.aten.index.Tensor` by one index that `scalar-arguments` made a scalar."""

    def run(self, module: ir.Module) -> None:
        for op in walk(module.operation):
            if op.name == "torch.aten.index.Tensor":
                _rewrite(op)


def _rewrite(op: ir.Operation) -> None:
    source, listed = op.operands
    made = _owner(listed)
    if made is None or made.name != "torch.prim.ListConstruct":
        return
    at = [i for i, index in enumerate(made.operands) if not is_none(index)]
    if len(at) != 1:
        return
    (dim,) = at
    position, table = _scalar(made.operands[dim]), parse_torch_tensor(source.type)
    result = parse_torch_tensor(op.results[0].type)
    shape = result.shape
    if position is None or len(shape) != len(table.shape) or shape[dim] != 1 or None in shape:
        return
    rank = len(shape)
    with ir.InsertionPoint(op), ir.Location.unknown(op.context):
        tensor = _create("torch_c.to_builtin_tensor", ir.Type.parse(table.builtin), source)
        index = _create("arith.index_cast", ir.IndexType.get(), position)
        row = _create(
            "tensor.extract_slice",
            ir.Type.parse(Tensor(shape, table.dtype).builtin),
            tensor,
            index,
            operandSegmentSizes=ir.DenseI32ArrayAttr.get([1, 1, 0, 0]),
            static_offsets=ir.DenseI64ArrayAttr.get(
                [_DYNAMIC if i == dim else 0 for i in range(rank)]
            ),
            static_sizes=ir.DenseI64ArrayAttr.get([size or 0 for size in shape]),
            static_strides=ir.DenseI64ArrayAttr.get([1] * rank),
        )
        back = _create("torch_c.from_builtin_tensor", op.results[0].type, row)
    op.results[0].replace_all_uses_with(back)
    op.erase()


def _scalar(index: ir.Value) -> ir.Value | None:
    """The i64 that a tensor of one index was made of on the host."""
    owner = _owner(index)
    while owner is not None and owner.name in _RESHAPES:
        owner = _owner(owner.operands[0])
    if owner is None or owner.name != "torch_c.from_builtin_tensor":
        return None
    elements = _owner(owner.operands[0])
    if elements is None or elements.name != "tensor.from_elements":
        return None
    return elements.operands[0]


def _owner(value: ir.Value) -> ir.Operation | None:
    return None if isinstance(value.owner, ir.Block) else value.owner.operation


def _create(name: str, type_: ir.Type, *operands: ir.Value, **attributes: ir.Attribute) -> ir.Value:
    return ir.Operation.create(
        name, results=[type_], operands=list(operands), attributes=attributes
    ).results[0]
