"""`fuse-attention`: what stands between the projections and attention, in one dispatch.

A layer norms each head's row of query and key, turns it by its position, and writes keys and values
into the cache: seven dispatches of generated code in a decode step of Qwen3, each short and each
waited for. With `kernel=<level>` that becomes one kernel, which for one token attends as well; many
tokens have a dispatch for it and leave attention to `lower-attention`. Norm and rotation are found
by what they compute (see `edgec.passes.patterns.head_rows`), as far back as nothing else reads
them; what is left of a model's own way to its rows stays generated code.

Before the lowerings of cache updates and attention: it takes these operators away.
"""

from __future__ import annotations

from dataclasses import dataclass

from iree.compiler import ir

from edgec.passes.kernels.attention import attention_fits, parse_attention
from edgec.passes.kernels.attention_step import (
    HeadRows,
    StepShape,
    step_operands,
    step_symbol,
    step_template,
)
from edgec.passes.patterns.head_rows import Prepared, Rows, cut_from, prepared
from edgec.passes.patterns.matching import BIND_SHAPE
from edgec.passes.rewriting import (
    call_before,
    constant_bool,
    custom_ops,
    insert_function,
    parse_torch_tensor,
)

__all__ = ["FuseAttention"]

_UPDATES = ("torch.edgec.cache_update", "torch.edgec.quantized_cache_update")
_COPY, _OVERWRITE = "torch.aten.copy", "torch.overwrite.tensor.contents"


@dataclass(frozen=True)
class FuseAttention:
    """Rewrites every `edgec::attention` that the kernel takes with the updates of its cache.

    Attributes:
        kernel: `generic`, which leaves all as it is, or the feature level of the kernels.
    """

    kernel: str = "generic"

    def run(self, module: ir.Module) -> None:
        if self.kernel == "generic":
            return
        for op in custom_ops(module, "attention"):
            key, value = (_update(operand) for operand in list(op.operands)[1:3])
            if key is None or value is None or key == value:
                continue
            layer = _layer(op, key, value)
            if layer is not None:
                _fuse(module, layer, self.kernel)
        for function in module.body.operations:
            for region in function.operation.regions:
                for block in region.blocks:
                    _erase_unused(block)


@dataclass(frozen=True)
class _Layer:
    """The operations that are fused.

    Attributes:
        attention: The operator.
        updates: The two that write into the cache.
        values: The tensors by their names in the kernel.
        late: Readers of the cache that must come after the call, last one first.
    """

    attention: ir.Operation
    updates: tuple[ir.Operation, ir.Operation]
    shape: StepShape
    values: dict[str, ir.Value]
    late: list[ir.Operation]


def _update(cache: ir.Value) -> ir.Operation | None:
    """The operator that wrote into a cache last."""
    owner = None if isinstance(cache.owner, ir.Block) else cache.owner.operation
    if owner is None or owner.name != "torch.operator":
        return None
    return owner if ir.StringAttr(owner.attributes["name"]).value in _UPDATES else None


def _layer(op: ir.Operation, key: ir.Operation, value: ir.Operation) -> _Layer | None:
    """Finds what can be fused with an attention and the updates of its cache, or None."""
    attention = parse_attention(op)
    query, _, _, start, sinks, *_ = op.operands
    *_, new_key, at, ring = key.operands
    *_, new_value, value_at, value_ring = value.operands
    wraps, late, value_late = constant_bool(ring), _late(key, op), _late(value, op)
    if late is None or value_late is None or not attention_fits(attention):
        return None
    if at != value_at or wraps != constant_bool(value_ring):
        return None
    tokens, _, width = parse_torch_tensor(new_key.type).shape
    assert width is not None
    k = prepared(Rows.of(new_key, 0, 1, 2), width, key)
    v = Prepared(cut_from(Rows.of(new_value, 0, 1, 2)))
    q: Prepared | None = prepared(Rows.of(query, 2, 1, 3), width, op)
    # A query of other tokens is that of the last one alone.
    same = at == start and attention.query.shape[::2] == (1, tokens)
    attends = same and tokens == 1
    if not attends:
        # What does no more than move rows, generated code does as well.
        if k.plain:
            return None
        if not same or q is None or q.plain or _head_rows(q) is None:
            q = None
    query_rows = _head_rows(q) if q is not None else None
    key_rows, value_rows = _head_rows(k), _head_rows(v)
    if key_rows is None or value_rows is None or (attends and query_rows is None):
        return None
    turns = [made.rotation for made in (k, q) if made is not None and made.rotation is not None]
    if any(t.tables != turns[0].tables or t.cos.type != t.sin.type for t in turns):
        return None
    rotation = turns[0] if turns else None
    shape = StepShape(
        attention,
        query_rows,
        key_rows,
        value_rows,
        tokens=tokens,
        table=parse_torch_tensor(rotation.cos.type) if rotation else None,
        turn=rotation.turn if rotation else 0,
        ring=wraps,
        attends=attends,
    )
    values = {"key": k.source.value, "value": v.source.value, "start": at, "sinks": sinks}
    if q is not None:
        values["query"] = q.source.value
    if rotation is not None:
        values |= {"cos": rotation.cos, "sin": rotation.sin}
    for name, made in (("query_norm", q), ("key_norm", k)):
        if made is not None and made.norm is not None and made.norm.weights is not None:
            values[name] = made.norm.weights
    values |= {"keys": key.operands[0], "values": value.operands[0]}
    if attention.scaled:
        values |= {"key_scales": key.operands[1], "value_scales": value.operands[1]}
    return _Layer(op, (key, value), shape, values, late + value_late)


def _head_rows(made: Prepared) -> HeadRows | None:
    """The kernel's description of rows, or None where it cannot be told where they lie."""
    rows, norm, rotation = made.source, made.norm, made.rotation
    place, type_ = rows.strides(), parse_torch_tensor(rows.value.type)
    if place is None or type_.dtype != "f32":
        return None
    return HeadRows(
        type_,
        place,
        tokens=type_.shape.index(None) if None in type_.shape else None,
        norm=0 if norm is None else 1 if norm.weights is None else 2,
        epsilon=norm.epsilon if norm else 0.0,
        rotated=rotation.columns if rotation else 0,
    )


def _late(update: ir.Operation, op: ir.Operation) -> list[ir.Operation] | None:
    """The op that reads the update before `op`, if it can come after it: the end of the state."""
    found: list[ir.Operation] = []
    for reader in [use.owner.operation for result in update.results for use in result.uses]:
        if reader.block != op.block:
            return None
        if reader == op or op.is_before_in_block(reader):
            continue
        ends = [use.owner.operation for result in reader.results for use in result.uses]
        if reader.name not in (_COPY, _OVERWRITE) or any(end.name != _OVERWRITE for end in ends):
            return None
        found += [*ends, reader]
    return found


def _fuse(module: ir.Module, layer: _Layer, level: str) -> None:
    op, shape = layer.attention, layer.shape
    symbol = step_symbol(shape, level)
    insert_function(module, symbol, step_template(symbol, shape, level))
    for reader in layer.late:
        reader.move_after(op)
    old = [result for update in layer.updates for result in list(update.results)[:1]]
    if shape.attention.scaled:
        old += [update.results[1] for update in layer.updates]
    if shape.attends:
        old.insert(0, op.results[0])
    elif shape.query is not None:
        old.insert(0, op.operands[0])
    new = call_before(
        op, symbol, [layer.values[name] for name in step_operands(shape)], [v.type for v in old]
    )
    if not shape.attends and shape.query is not None:
        old.pop(0)
        op.operands[0] = new.pop(0)
    for before, after in zip(old, new, strict=True):
        before.replace_all_uses_with(after)
    for done in (op, *layer.updates) if shape.attends else layer.updates:
        done.erase()


def _erase_unused(block: ir.Block) -> None:
    """Erases what led to what is computed otherwise now; a shape that is stated is no use."""
    for view in reversed(list(block.operations)):
        op = view.operation
        if not op.results or not op.name.startswith(("torch.aten.", "torch.prim.")):
            continue
        readers = [use.owner.operation for result in op.results for use in result.uses]
        if all(reader.name == BIND_SHAPE for reader in readers):
            for reader in readers:
                reader.erase()
            op.erase()
