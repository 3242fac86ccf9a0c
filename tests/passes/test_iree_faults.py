"""Faults in IREE's results, and that programs which edgec makes are right.

Where a first assertion of these fails, IREE has been mended and the pass can go.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np
import pytest

from edgec.compiler.iree import iree_compile_file
from edgec.compiler.stages import STAGES, shape_flags
from edgec.compiler.targets import parse_targets
from edgec.options import CompileOptions

# A product of queries and keys, as a call with a cache makes it. The size of the first is stated
# once by the tensor and once by a shape that went through i64, as torch's views do.
SCORES = """
util.func public @main(%x: tensor<4x?x16xf32>, %keys: tensor<?x4x16xf32>) -> tensor<4x?x?xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %four = arith.constant 4 : i64
  %width = arith.constant 16 : i64
  %zero = arith.constant 0.0 : f32
  %any = tensor.dim %x, %c1 : tensor<4x?x16xf32>
  %depth = tensor.dim %keys, %c0 : tensor<?x4x16xf32>
  %n = util.assume.int %any<umin = 32, umax = 96, udiv = 32> : index
  %tied = flow.tensor.tie_shape %x : tensor<4x?x16xf32>{%n}
  %tokens = tensor.dim %tied, %c1 : tensor<4x?x16xf32>
  %size = arith.index_cast %tokens : index to i64
  %shape = tensor.from_elements %four, %size, %width : tensor<3xi64>
  %queries = tensor.reshape %tied(%shape)
      : (tensor<4x?x16xf32>, tensor<3xi64>) -> tensor<4x?x16xf32>
  %empty = tensor.empty(%tokens, %depth) : tensor<4x?x?xf32>
  %init = linalg.fill ins(%zero : f32) outs(%empty : tensor<4x?x?xf32>) -> tensor<4x?x?xf32>
  %scores = linalg.generic {
      indexing_maps = [affine_map<(h, l, m, d) -> (h, l, d)>,
                       affine_map<(h, l, m, d) -> (m, h, d)>,
                       affine_map<(h, l, m, d) -> (h, l, m)>],
      iterator_types = ["parallel", "parallel", "parallel", "reduction"]
    } ins(%queries, %keys : tensor<4x?x16xf32>, tensor<?x4x16xf32>)
      outs(%init : tensor<4x?x?xf32>) {
  ^bb0(%a: f32, %b: f32, %sum: f32):
    %p = arith.mulf %a, %b : f32
    %s = arith.addf %sum, %p : f32
    linalg.yield %s : f32
  } -> tensor<4x?x?xf32>
  util.return %scores : tensor<4x?x?xf32>
}"""

DIFFERENCES = """
util.func public @main(%x: tensor<8x32xf32>, %w: tensor<32x32xf32>) -> tensor<8x32x32xf32> {
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<8x32xf32>
  %init = linalg.fill ins(%zero : f32) outs(%empty : tensor<8x32xf32>) -> tensor<8x32xf32>
  %s = linalg.matmul ins(%x, %w : tensor<8x32xf32>, tensor<32x32xf32>)
      outs(%init : tensor<8x32xf32>) -> tensor<8x32xf32>
  %out = tensor.empty() : tensor<8x32x32xf32>
  %r = linalg.generic {
      indexing_maps = [affine_map<(c, i, j) -> (c, i)>, affine_map<(c, i, j) -> (c, j)>,
                       affine_map<(c, i, j) -> (c, i, j)>],
      iterator_types = ["parallel", "parallel", "parallel"]
    } ins(%s, %s : tensor<8x32xf32>, tensor<8x32xf32>) outs(%out : tensor<8x32x32xf32>) {
  ^bb0(%a: f32, %b: f32, %unused: f32):
    %d = arith.subf %a, %b : f32
    linalg.yield %d : f32
  } -> tensor<8x32x32xf32>
  util.return %r : tensor<8x32x32xf32>
}"""


def scores() -> tuple[list[Any], Any]:
    random = np.random.default_rng(0)
    x = random.standard_normal((4, 32, 16), np.float32)
    keys = random.standard_normal((224, 4, 16), np.float32)
    return [x, keys], np.einsum("hld,mhd->hlm", x, keys)


def differences() -> tuple[list[Any], Any]:
    random = np.random.default_rng(0)
    x = random.standard_normal((8, 32), np.float32)
    w = random.standard_normal((32, 32), np.float32)
    s = x @ w
    return [x, w], s[:, :, None] - s[:, None, :]


@pytest.mark.parametrize(("text", "example"), [(SCORES, scores), (DIFFERENCES, differences)])
def test_right_where_iree_is_wrong(text: str, example: Any, tmp_path: Path) -> None:
    (target,) = parse_targets("cpu:x86-64")
    options = CompileOptions().for_model(256, "an operator")
    source = tmp_path / "input.mlir"
    source.write_text(text)
    flags = (*target.flags, *shape_flags(options))
    iree_compile_file(source, tmp_path / "plain.vmfb", flags)
    for stage in ("input", "stream", "vmfb"):
        STAGES[stage](source, tmp_path / f"{stage}.out", target, options)
        source = tmp_path / f"{stage}.out"
    arguments, expected = example()
    assert error(tmp_path / "plain.vmfb", arguments, expected) > 0.1
    assert error(source, arguments, expected) < 1e-5


def error(program: Path, arguments: list[Any], expected: Any) -> float:
    """The largest difference, in units of the largest expected value."""
    instance, device = rt.VmInstance(), rt.get_device("local-task")
    module = rt.VmModule.mmap(instance, str(program))
    context = rt.VmContext(instance, [rt.create_hal_module(instance, device), module])
    given, found = rt.VmVariantList(2), rt.VmVariantList(1)
    for argument in arguments:
        given.push_ref(rt.asdevicearray(device, argument)._buffer_view)
    context.invoke(module.lookup_function("main"), given, found)
    view = found.get_as_object(0, rt.HalBufferView)
    actual = rt.DeviceArray(device, view, implicit_host_transfer=True).to_host()
    return float(np.nan_to_num(np.abs(actual - expected), nan=1e9).max() / np.abs(expected).max())
