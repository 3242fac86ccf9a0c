"""MLIR that calls CPU kernels: executables over their object files, and dispatches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from edgec.passes.emit import Function, Size, Value
from edgec.passes.kernels.kernel import Axis, Kernel, Library

__all__ = ["Made", "dispatch", "executable", "workgroup_share"]

Made: TypeAlias = tuple[str, Sequence[Size]]
"""The elements and the sizes of a tensor that a dispatch makes."""

_FORMATS = {"x86_64": "embedded-elf-x86_64", "aarch64": "embedded-elf-arm_64"}
_FEW, _FEW_BYTES, _MANY_BYTES = 15, 1 << 20, 1 << 18


def workgroup_share(tiles: int, tile_bytes: int) -> int:
    """How many tiles of weights a workgroup takes, where few rows are multiplied by them.

    IREE's threads take workgroups by eights where there are eight or more for each: of 16, two
    threads have eight each, come what may, and of 24 one has sixteen. So there are 15 of up to
    1 MB, or so many that eights do not matter.
    """
    share = -(-tiles // _FEW)
    return share if share * tile_bytes <= _FEW_BYTES else max(1, _MANY_BYTES // tile_bytes)


def dispatch(
    f: Function,
    library: Library,
    kernel: str,
    values: Mapping[str, Value],
    results: Sequence[Made | Value],
    numbers: Mapping[str, Size | float],
    unwritten: Value | None = None,
) -> tuple[Value, ...]:
    """The results of a `flow.dispatch` of a kernel.

    Args:
        f: The function that dispatches it.
        library: The executable that exports the kernel.
        kernel: Its name.
        values: Operands by the names of buffers, at least those that the kernel reads or updates;
            also a buffer that this call makes no use of needs one.
        results: The types of the written buffers, then the updated operands themselves.
        numbers: Sizes, floats and workload by their names.
        unwritten: Stands for a written buffer that this call makes no use of.

    Raises:
        KeyError: the library has no such kernel, or a value or number is missing.
    """
    declared = library.kernels[kernel]
    operands = [values[buffer.name] for buffer in declared.buffers if buffer.access != "write"]
    operands += [] if unwritten is None else [unwritten]
    types = [operand.sized for operand in operands]
    for names, type_ in ((declared.indices, "index"), (declared.floats, "f32")):
        operands += [f.const(numbers[name], type_) for name in names]
        types += [type_] * len(names)
    workload = [f.const(numbers[name], "index") for name in declared.workload]
    made = [result if isinstance(result, Value) else f.blank(*result) for result in results]
    shown = [
        m.sized if isinstance(r, tuple) else str(r) for r, m in zip(results, made, strict=True)
    ]
    return f.several(
        f"flow.dispatch @{library.name}::@{kernel}[{', '.join(map(str, workload))}]"
        f"({', '.join(map(str, operands))}) : ({', '.join(types)}) -> ({', '.join(shown)})",
        made,
    )


def executable(library: Library, level: str) -> str:
    """The kernels of a library as an executable over its object for a feature level.

    Args:
        level: Such as `x86_64_avx2`.
    """
    architecture = next((a for a in _FORMATS if level.startswith(a)), None)
    if architecture is None:
        raise ValueError(f"no kernels for '{level}'")
    kernels = library.kernels.values()
    return f"""
stream.executable private @{library.name} attributes {{
  hal.executable.objects = #hal.executable.objects<{{
    #hal.executable.target<"llvm-cpu", "{_FORMATS[architecture]}"> = [
      #hal.executable.object<{{path = "{library.object}_{level}.o"}}>
    ]
  }}>
}} {{{"".join(map(_export, kernels))}
  builtin.module {{{"".join(map(_function, kernels))}
  }}
}}
"""


def _export(kernel: Kernel) -> str:
    """The export of a kernel's function, which counts its workgroups."""
    constants, quotients, sizes = "", "", []
    for axis, dimension in zip(kernel.grid, "xyz", strict=False):
        each = axis.each
        if each == 1:
            sizes.append(f"%{axis.total}")
            continue
        if isinstance(each, int):
            constants += f"\n    %{dimension}_each = arith.constant {each} : index"
            each = f"{dimension}_each"
        quotients += f"\n    %{dimension} = arith.ceildivui %{axis.total}, %{each} : index"
        sizes.append(f"%{dimension}")
    arguments = ", ".join(f"%{name}: index" for name in kernel.workload)
    return f"""
  stream.executable.export public @{kernel.name} workgroups({arguments}) -> (index, index, index) {{
    %c1 = arith.constant 1 : index{constants}{quotients}
    stream.return {", ".join([*sizes, "%c1", "%c1"][:3])} : index, index, index
  }}"""


def _function(kernel: Kernel) -> str:
    """The exported function: it unwraps the bindings and calls the C function."""
    declared, bindings, views, passed = [], [], [], []
    for i, buffer in enumerate(kernel.buffers):
        element = buffer.mlir_element
        declared.append(f"memref<{element}>, index")
        bindings.append(f"%binding{i}: !stream.binding")
        # The size of a view is not looked at: the callee gets its base and offset.
        views.append(f"""
      %view{i} = stream.binding.subspan %binding{i}[%c0]
          : !stream.binding -> memref<?x{element}>{{%{kernel.indices[0]}}}
      %base{i}, %offset{i}, %size{i}, %stride{i} = iree_codegen.extract_strided_metadata %view{i}
          : memref<?x{element}> -> memref<{element}>, index, index, index""")
        passed.append(f"%base{i}, %offset{i}")
    places, places_text = [], ""
    for i, axis in enumerate(kernel.grid):
        values, text = _place(axis, i)
        places += values
        places_text += text
    scalars = [(f"%{name}", "index") for name in kernel.sizes]
    scalars += [(f"%{name}", "f32") for name in kernel.floats]
    scalars += [(value, "index") for value in places]
    types = ", ".join([*declared, *(type_ for _, type_ in scalars)])
    arguments = [
        *bindings,
        *(f"%{name}: index" for name in kernel.indices),
        *(f"%{name}: f32" for name in kernel.floats),
    ]
    return f"""
    func.func private @{kernel.function}({types})
        attributes {{hal.import.static, llvm.bareptr = true}}
    func.func @{kernel.name}({", ".join(arguments)}) {{
      %c0 = arith.constant 0 : index{places_text}{"".join(views)}
      func.call @{kernel.function}({", ".join([*passed, *(value for value, _ in scalars)])})
          : ({types}) -> ()
      return
    }}"""


def _place(axis: Axis, dimension: int) -> tuple[list[str], str]:
    """The values for an axis' C parameters, and text that computes them."""
    number = f"%number{dimension}"
    text = f"\n      {number} = stream.dispatch.workgroup.id[{dimension}] : index"
    if not axis.count:
        return [number], text
    each, begin = f"%{axis.each}", f"%begin{dimension}"
    if isinstance(axis.each, int):
        each = f"%each{dimension}"
        text += f"\n      {each} = arith.constant {axis.each} : index"
    text += f"\n      {begin} = arith.muli {number}, {each} : index"
    return [begin, each], text
