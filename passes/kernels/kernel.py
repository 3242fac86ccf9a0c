"""The declaration of a CPU kernel: its buffers, its sizes, and how a grid of workgroups divides it.

Everything that must agree between MLIR and C follows from it: the function that IREE calls, the
operands of a dispatch, the C prototype (`edgec.compiler.ukernels.abi`) and the tests' calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgec.weight_formats import WeightFormat

__all__ = ["Axis", "Buffer", "Kernel", "Library"]


@dataclass(frozen=True)
class Buffer:
    """A buffer that a kernel reads or writes.

    Attributes:
        name: The C parameter, and the operand's name in a dispatch.
        element: f32, f16, bf16, i32, i8, or u8: packed bits, which are i8 in MLIR.
        access: `read`; `write`, a result of the dispatch; `update`, an operand that is also a
            result in its place. Written buffers come last.
    """

    name: str
    element: str
    access: str = "read"

    @property
    def mlir_element(self) -> str:
        return "i8" if self.element == "u8" else self.element


@dataclass(frozen=True)
class Axis:
    """A dimension of the grid of workgroups.

    Attributes:
        total: The dispatch's value that is divided among workgroups.
        first: The C parameter that says where a workgroup begins: its number times `each`, or its
            number alone without `count`.
        each: What a workgroup has of `total`: a constant, or the name of a dispatch's value.
        count: The C parameter that gets `each`; empty if the kernel has it among its sizes.
    """

    total: str
    first: str
    each: int | str = 1
    count: str = ""


@dataclass(frozen=True)
class Kernel:
    """A function of a C source.

    Attributes:
        name: The exported function; C adds `edgec_`.
        buffers: In the order of the C parameters; each is a pointer and an offset in elements.
        sizes: Indices, `size_t` in C.
        floats: Numbers, `float` in C.
        grid: One to three axes.
        form: The weight format's name, where the C source is compiled for one; the name's ending.
    """

    name: str
    buffers: tuple[Buffer, ...]
    sizes: tuple[str, ...]
    floats: tuple[str, ...]
    grid: tuple[Axis, ...]
    form: str = ""

    def __post_init__(self) -> None:
        names = [*(b.name for b in self.buffers), *self.sizes, *self.floats, *self.places]
        if len(set(names)) < len(names):
            raise ValueError(f"kernel {self.name}: two parameters of one name in {names}")
        written = [buffer.access == "write" for buffer in self.buffers]
        if written != sorted(written):
            raise ValueError(f"kernel {self.name}: a written buffer before one that is not")

    @property
    def function(self) -> str:
        """The C function."""
        return f"edgec_{self.name}"

    @property
    def defined(self) -> str:
        """The name in `KERNEL(name)`."""
        return self.name.removesuffix(f"_{self.form}") if self.form else self.name

    @property
    def places(self) -> tuple[str, ...]:
        """The last C parameters: where a workgroup begins, and how much it has."""
        return tuple(name for axis in self.grid for name in (axis.first, axis.count) if name)

    @property
    def workload(self) -> tuple[str, ...]:
        """The dispatch's values by which workgroups are counted."""
        return tuple(
            name for axis in self.grid for name in (axis.total, axis.each) if isinstance(name, str)
        )

    @property
    def indices(self) -> tuple[str, ...]:
        """The dispatch's operands after its buffers: the sizes, and what a workgroup has."""
        each = (axis.each for axis in self.grid if axis.count and isinstance(axis.each, str))
        return (*self.sizes, *each)


class Library:
    """Kernels of one C source that one executable exports.

    Args:
        name: The executable's symbol.
        source: The stem of the C source in compiler/ukernels/, without its level.
        kernels: Their names are unique in a program, since IREE links all executables into one.
        form: The weight format that the source is compiled for, if it is compiled for one.
    """

    def __init__(
        self, name: str, source: str, kernels: Iterable[Kernel], form: WeightFormat | None = None
    ) -> None:
        self.name = name
        self.source = source
        self.form = form
        self.kernels = {kernel.name: kernel for kernel in kernels}

    @property
    def object(self) -> str:
        """The stem of the object file, without its level."""
        return self.source if self.form is None else f"{self.source}_{self.form.name}"
