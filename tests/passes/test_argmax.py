"""The greedy token as each target searches it, run on the CPU, against numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np
import pytest
from iree.compiler import ir

from edgec.compiler.iree import iree_compile_file
from edgec.compiler.stages import shape_flags
from edgec.compiler.targets import parse_targets
from edgec.compiler.ukernels import build_objects
from edgec.options import CompileOptions
from edgec.passes import Pipeline

# The last two have no rows of equal length but their own; 8,191 is too short for the kernel.
SIZES = (1, 7, 1000, 32000, 151936, 8191, 151937)
BATCHES = (1, 3)


def _function(batch: int, size: int) -> str:
    x, value, index = f"tensor<{batch}x{size}xf32>", f"tensor<{batch}xf32>", f"tensor<{batch}xi32>"
    return f"""
util.func public @argmax_{batch}x{size}(%x: {x}) -> {index} {{
  %low = arith.constant 0xFF800000 : f32
  %zero = arith.constant 0 : i32
  %v = tensor.empty() : {value}
  %i = tensor.empty() : {index}
  %v_low = linalg.fill ins(%low : f32) outs(%v : {value}) -> {value}
  %i_zero = linalg.fill ins(%zero : i32) outs(%i : {index}) -> {index}
  %best:2 = iree_linalg_ext.arg_compare dimension(1) ins(%x : {x})
      outs(%v_low, %i_zero : {value}, {index}) {{
  ^bb0(%a: f32, %b: f32):
    %larger = arith.cmpf ogt, %a, %b : f32
    iree_linalg_ext.yield %larger : i1
  }} -> {value}, {index}
  util.return %best#1 : {index}
}}"""


@pytest.fixture(scope="module", params=["cpu", "whole", "reductions", "rows"])
def search(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function from logits `[batch, size]` to places `[batch]`, of one form of the pass."""
    folder = tmp_path_factory.mktemp("argmax")
    target = parse_targets("cpu")[0]
    passes = target.input_pipeline
    if request.param != "cpu":
        passes = Pipeline.parse(f"lower-argmax{{form={request.param}}}")
    with ir.Context():
        text = "".join(_function(batch, size) for batch in BATCHES for size in SIZES)
        module = ir.Module.parse(f"module @argmax {{{text}}}")
        passes.run(module)
        (folder / "in.mlir").write_text(str(module))
    flags = (*target.flags, *shape_flags(CompileOptions()))
    if target.kernels and request.param == "cpu":
        assert str(module).count("flow.dispatch @edgec_argmax") == 3 * len(BATCHES)
        build_objects(str(module), target.kernels, folder)
        flags = (*flags, f"--iree-hal-executable-object-search-path={folder}")
    iree_compile_file(folder / "in.mlir", folder / "out.vmfb", flags)
    return _Search(folder / "out.vmfb")


class _Search:
    def __init__(self, program: Path) -> None:
        config = rt.Config("local-task")
        self._module = rt.load_vm_module(rt.VmModule.mmap(config.vm_instance, str(program)), config)

    def __call__(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        function = self._module[f"argmax_{x.shape[0]}x{x.shape[1]}"]
        found: np.ndarray[Any, Any] = function(x).to_host()
        return found


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("size", SIZES)
def test_argmax(search: _Search, batch: int, size: int) -> None:
    """The first of equal numbers; 0 where all is minus infinity."""
    random = np.random.default_rng(size)
    cases = [random.standard_normal((batch, size), np.float32) for _ in range(3)]
    cases += [np.round(cases[0]), np.round(cases[1] * 2), np.sign(cases[2])]  # many are equal
    cases += [np.full((batch, size), v, np.float32) for v in (0.0, -0.0, 1.5, -np.inf, np.inf)]
    cases.append(np.where(np.arange(size) == size - 1, -3e38, np.full((batch, size), -np.inf)))
    cases.append(np.where(random.random((batch, size)) < 0.5, np.float32(0.0), np.float32(-0.0)))
    for place in random.integers(0, size, 20):
        cases.append(cases[0].copy())
        cases[-1][:, place] = cases[-1].max() + 1
        cases[-1][-1, random.integers(0, size)] = cases[-1].max()  # a second one
    for x in cases:
        assert np.array_equal(search(x.astype(np.float32)), x.argmax(axis=1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_nan_counts_as_infinity(search: _Search, size: int, share: float) -> None:
    """The first one is found, as in numpy and torch; so what is found tells that there is one."""
    random = np.random.default_rng(size)
    for place in {0, 1 % size, size // 2, size - 1, *random.integers(0, size, 5)}:
        x = random.standard_normal((3, size), np.float32)
        x[random.random(x.shape) < share] = np.nan
        x[0, place] = np.nan
        x[1, place] = -np.float32(np.nan)  # with its sign bit
        x[2, place] = np.inf
        found = search(x)
        assert np.array_equal(found, np.nan_to_num(x, nan=np.inf, posinf=np.inf).argmax(axis=1))
        assert not np.isfinite(x[range(3), found]).any()
