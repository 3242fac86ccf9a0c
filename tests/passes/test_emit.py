"""The MLIR writer: what it writes parses, verifies, and has the types that its values say."""

from __future__ import annotations

import pytest
from iree.compiler import ir

from edgec.passes.emit import Function, Tensor, Value


def parsed(text: str) -> str:
    """The text as MLIR prints it."""
    with ir.Context():
        module = ir.Module.parse(text)
        module.operation.verify()
        return str(module)


def test_a_tensor_type() -> None:
    type_ = Tensor((1, None, 64), "f32")
    assert (type_.builtin, type_.label) == ("tensor<1x?x64xf32>", "1xdx64xf32")
    assert type_.of("f16").with_dim(1, 8) == Tensor((1, 8, 64), "f16")
    assert type_.rows is None
    assert type_.with_dim(1, 8).rows == 8


@pytest.mark.parametrize("leading", [(), (3,), (None,), (1, None), (2, 3)])
def test_rows_and_back(leading: tuple[int | None, ...]) -> None:
    """A product of any leading dimensions, its sizes known by its operands."""
    f = Function("f", x=Tensor((*leading, 8), "f32"), w=Tensor((4, 8), "f16"))

    def multiply(a: Value, b: Value, total: Value) -> Value:
        return total + a * b.to("f32")

    product = f.generic("m k, n k -> m n", [f.rows(f["x"]), f["w"]], multiply, init=0.0)
    result = f.unrows(product, f["x"])
    assert result.tensor == Tensor((*leading, 4), "f32")
    text = parsed(f.returns(result))
    assert '["parallel", "parallel", "reduction"]' in text
    assert text.count("arith.extf") == 1


def test_numbers() -> None:
    """Operators by type: unsigned on integers; a number becomes a constant, once."""
    f = Function("f", x=Tensor((5,), "i8"))

    def nibble(byte: Value) -> Value:
        wide = byte.to("i32", signed=False)
        even = (f.index("i") % 2).is_("eq", 0)
        return ((even.choose(wide, wide >> 4) & 15) - 8).to("f32") / 2.0

    text = parsed(f.returns(f.generic("i -> i", [f["x"]], nibble)))
    for name in ("extui", "remui", "shrui", "andi", "subi", "sitofp", "divf"):
        assert text.count(f"arith.{name} ") == 1, text


def test_a_loop_carries_tensors() -> None:
    f = Function("f", x=Tensor((None, 4), "f32"))
    count = f["x"].size(0)

    def body(i: Value, out: Value) -> tuple[Value]:
        return (f.insert(f.slice(f["x"], (i, 0), (1, 4)), out, (i, 0)),)

    (result,) = f.loop(count, [f.empty("f32", (count, 4))], body)
    assert "scf.for" in parsed(f.returns(result))


def test_operands_must_have_the_axes_that_are_named() -> None:
    f = Function("f", x=Tensor((3, 4), "f32"))
    with pytest.raises(ValueError, match="zip"):
        f.generic("a b, a -> a b", [f["x"]], lambda a, b: a + b)
