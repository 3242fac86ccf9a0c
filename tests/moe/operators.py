"""One operator compiled for a device through the same stages as a model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np
import torch
from tests.passes.test_lowerings import as_tuple, compare, operator_module, upload

from edgec.compiler.stages import STAGES
from edgec.compiler.targets import parse_targets
from edgec.models import ops
from edgec.options import CompileOptions
from edgec.runtime import transfer

_TARGETS = {"cpu": ("cpu", "local-task"), "vulkan": ("vulkan:llvmpipe", "vulkan")}
_NUMPY = {torch.float32: np.float32, torch.int32: np.int32, torch.int64: np.int64}


class Operator:
    """`edgec::name`, compiled for arguments like `arguments`.

    Args:
        name: The operator.
        arguments: As its eager reference takes them.
        dynamic: Argument to its dynamic dimension.
        folder: For the program.
        device: cpu or vulkan.
    """

    def __init__(
        self, name: str, arguments: list[Any], dynamic: dict[int, int], folder: Path, device: str
    ) -> None:
        self.name = name
        variant, driver = _TARGETS[device]
        (target,) = parse_targets(variant)
        options = CompileOptions(dynamic_shapes="none").for_model(256, name)
        place = Path(tempfile.mkdtemp(dir=folder))
        source = place / "torch.mlir"
        source.write_text(operator_module(name, arguments, dynamic))
        # No kernels: they are tested on their own, and round activations.
        if target.kernels and name.startswith("quantized"):
            (target,) = parse_targets("cpu:x86_64-linux-gnu")
        for stage, run in STAGES.items():
            run(source, place / stage, target, options)
            source = place / stage
        self._device = rt.get_device(driver)
        instance = rt.VmInstance()
        module = rt.VmModule.mmap(instance, str(source))
        hal = rt.create_hal_module(instance, self._device)
        self._context = rt.VmContext(instance, [hal, module])
        self._main = module.lookup_function("main")

    def check(self, arguments: list[Any]) -> list[np.ndarray]:
        """Compares with the eager reference: integers exactly, floats to 1e-5 of the largest.

        Returns what the program gave.
        """
        expected = as_tuple(getattr(ops, self.name)(*arguments))
        inputs, outputs = rt.VmVariantList(8), rt.VmVariantList(len(expected))
        for value in arguments:
            if isinstance(value, torch.Tensor) and not value.dim():
                inputs.push_int(int(value))
            elif isinstance(value, torch.Tensor):
                inputs.push_ref(upload(self._device, value))
        self._context.invoke(self._main, inputs, outputs)
        found = [
            transfer.read(
                self._device, outputs.get_as_object(i, rt.HalBufferView), _NUMPY[wanted.dtype]
            )
            for i, wanted in enumerate(expected)
        ]
        compare(found, expected)
        return found
