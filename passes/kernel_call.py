"""How a program calls a C kernel: an executable that names its object, functions that unwrap.

A kernel's function takes, for each buffer, a pointer and an offset in elements, then indices and
floats. What of these is known at compile time is a constant of the call.
"""

from __future__ import annotations

__all__ = ["executable", "export", "workgroup_share", "wrap_kernel"]

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


def executable(name: str, source: str, level: str, exports: str, functions: str) -> str:
    """An executable of functions over the object of `source` for a feature level.

    Args:
        name: Its symbol.
        source: The kernels' source in compiler/ukernels/, without the level.
        level: Such as `x86_64_avx2`.
        exports: Text of its `stream.executable.export` operations.
        functions: Text of its functions, see `wrap_kernel`.
    """
    architecture = next((a for a in _FORMATS if level.startswith(a)), None)
    if architecture is None:
        raise ValueError(f"no kernels for '{level}'")
    return f"""
stream.executable private @{name} attributes {{
  hal.executable.objects = #hal.executable.objects<{{
    #hal.executable.target<"llvm-cpu", "{_FORMATS[architecture]}"> = [
      #hal.executable.object<{{path = "{source}_{level}.o"}}>
    ]
  }}>
}} {{{exports}
  builtin.module {{{functions}
  }}
}}
"""


def export(name: str, workload: str, *grid: str) -> str:
    """The export of a function and its workgroups, in up to three dimensions.

    Args:
        workload: What a dispatch is given to count them by: `panels each m`.
        grid: Of each dimension its size, a name or `panels / each`, `m / 8`: rounded up.
    """
    constants, quotients, sizes = "", "", []
    for axis, size in zip("xyz", grid, strict=False):
        whole, _, each = size.partition(" / ")
        if each.isdigit():
            constants += f"\n    %{axis}_each = arith.constant {each} : index"
            each = f"{axis}_each"
        if each:
            quotients += f"\n    %{axis} = arith.ceildivui %{whole}, %{each} : index"
        sizes.append(f"%{axis}" if each else f"%{whole}")
    arguments = ", ".join(f"%{given}: index" for given in workload.split())
    return f"""
  stream.executable.export public @{name} workgroups({arguments}) -> (index, index, index) {{
    %c1 = arith.constant 1 : index{constants}{quotients}
    stream.return {", ".join([*sizes, "%c1", "%c1"][:3])} : index, index, index
  }}"""


def wrap_kernel(
    name: str,
    callee: str,
    elements: list[str],
    indices: list[str],
    body: str,
    extra: list[str],
    hidden: tuple[str, ...] = (),
    floats: tuple[str, ...] = (),
) -> str:
    """One exported function over bindings of `elements`, then `indices` and `floats`.

    `extra` names the index values that `body` computes and the callee takes last; `hidden` are
    those of `indices` that only `body` uses.
    """
    declared, bindings, views, passed = [], [], [], []
    for i, element in enumerate(elements):
        declared.append(f"memref<{element}>, index")
        bindings.append(f"%binding{i}: !stream.binding")
        # The size of a view is not looked at: the callee gets its base and offset.
        views.append(f"""
      %view{i} = stream.binding.subspan %binding{i}[%c0]
          : !stream.binding -> memref<?x{element}>{{%{indices[0]}}}
      %base{i}, %offset{i}, %size{i}, %stride{i} = iree_codegen.extract_strided_metadata %view{i}
          : memref<?x{element}> -> memref<{element}>, index, index, index""")
        passed.append(f"%base{i}, %offset{i}")
    scalars = [(name, "index") for name in indices if name not in hidden]
    scalars += [(name, "f32") for name in floats] + [(name, "index") for name in extra]
    types = ", ".join([*declared, *(type_ for _, type_ in scalars)])
    arguments = [*bindings, *(f"%{i}: index" for i in indices), *(f"%{f}: f32" for f in floats)]
    return f"""
    func.func private @{callee}({types}) attributes {{hal.import.static, llvm.bareptr = true}}
    func.func @{name}({", ".join(arguments)}) {{
      %c0 = arith.constant 0 : index{body}{"".join(views)}
      func.call @{callee}({", ".join([*passed, *(f"%{s}" for s, _ in scalars)])})
          : ({types}) -> ()
      return
    }}"""
