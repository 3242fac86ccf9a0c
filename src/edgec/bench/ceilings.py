"""This machine's limits, measured: the roofs of a roofline.

CPU: a small C file, compiled for the CPU at hand by `ziglang` (part of `edgec[compile]`), run on
1, 2, 4, ... threads: read bandwidth over a buffer far beyond the caches, f32 multiply-adds and int8
multiplications in registers. Without `ziglang`, numpy: its sum for the bandwidth, its matrix
product for f32, and no int8; the result says which.

CUDA and Vulkan devices: two programs of IREE's own, compiled for the device: a sum over a large
buffer and a static matrix product. What a vendor's library could reach may be more; the result
says so too.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from edgec.errors import DeviceError, InputError

__all__ = ["Ceilings", "best_of", "cpu_ceilings", "device_ceilings"]

BUFFER = 512 << 20  # bytes in all: no cache holds a share of it
TRIALS = 5


@dataclass(frozen=True)
class Ceilings:
    """The roofs of a device. Bytes and operations per second; `int8` is None where not measured.

    `f16` is that of a device's matrix units, None on a CPU. `method` says how, for a reader.
    """

    device: str
    threads: int | None
    bandwidth: float
    f32: float
    int8: float | None
    f16: float | None
    method: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def best_of(samples: list[Ceilings]) -> Ceilings:
    """The best figure of each kind, of measurements of one device at several times.

    What else runs on a machine, and beside a virtual one, only takes from them.
    """

    def most(figures: list[float | None]) -> float | None:
        return max((f for f in figures if f is not None), default=None)

    return replace(
        samples[0],
        bandwidth=max(s.bandwidth for s in samples),
        f32=max(s.f32 for s in samples),
        int8=most([s.int8 for s in samples]),
        f16=most([s.f16 for s in samples]),
    )


def cpu_ceilings(threads: int | None = None, *, alone: bool = False) -> list[Ceilings]:
    """For 1, 2, 4, ... threads up to all cores; `threads` is among them where given.

    With `alone`, for `threads` (default all cores) and no other number.

    Raises:
        InputError: more threads than cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if threads is not None and not 1 <= threads <= cores:
        raise InputError(f"threads={threads}: this machine has {cores} cores")
    counts = {threads or cores}
    if not alone:
        counts |= {c for c in (1, 2, 4, 8, 16, 32, 64) if c < cores} | {cores}
    library = _library() if importlib.util.find_spec("ziglang") else None
    measure = _with_c if library else _with_numpy
    return [measure(count, library) for count in sorted(counts)]


@cache
def _library() -> Any:
    """The compiled C file, or None where nothing here can compile it."""
    with tempfile.TemporaryDirectory(prefix="edgec-ceilings-") as folder:
        return _load(Path(folder))


def _load(folder: Path) -> Any:
    source, output = Path(__file__).with_name("ceilings.c"), folder / "ceilings.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-O3", "-mcpu=native", "-shared", "-fPIC"]
    environ = {
        **os.environ,
        "ZIG_GLOBAL_CACHE_DIR": str(folder),
        "ZIG_LOCAL_CACHE_DIR": str(folder),
    }
    done = subprocess.run(
        [*command, "-o", str(output), str(source)],
        capture_output=True, text=True, check=False, env=environ,
    )  # fmt: skip
    if done.returncode:
        return None
    library = ctypes.CDLL(str(output))
    for name in ("f32_per_round", "int8_per_round", "read_step"):
        getattr(library, name).restype = ctypes.c_size_t
    library.read_all.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.read_all.restype = library.multiply_add.restype = ctypes.c_float
    library.multiply_add.argtypes = [ctypes.c_size_t, ctypes.c_float]
    library.multiply_int8.argtypes = [ctypes.c_size_t, ctypes.c_int]
    library.int8_instruction.restype = ctypes.c_char_p
    return library


def _together(threads: int, work: Callable[[int], object]) -> float:
    """The least seconds, of some trials, that `work` takes on that many threads at once.

    A ceiling is what can be reached, so that the best trial is taken. `work` must let other
    threads run, as foreign functions and numpy do.
    """
    start, end = threading.Barrier(threads + 1), threading.Barrier(threads + 1)

    def serve(index: int) -> None:
        for _ in range(TRIALS + 1):
            start.wait()
            work(index)
            end.wait()

    pool = [threading.Thread(target=serve, args=(i,), daemon=True) for i in range(threads)]
    for thread in pool:
        thread.start()
    times = []
    for _ in range(TRIALS + 1):
        start.wait()
        began = time.perf_counter()
        end.wait()
        times.append(time.perf_counter() - began)
    for thread in pool:
        thread.join()
    return min(times[1:])  # the first touches the memory


def _with_c(threads: int, library: Any) -> Ceilings:
    import numpy as np

    step = library.read_step()
    count = BUFFER // 4 // threads // step * step
    data = [np.ones(count, np.float32) for _ in range(threads)]
    read = _together(threads, lambda i: library.read_all(data[i].ctypes.data, count))
    rounds = 4_000_000
    f32 = _together(threads, lambda _: library.multiply_add(rounds, 0.5))
    per_round = library.int8_per_round()
    int8 = _together(threads, lambda _: library.multiply_int8(rounds, 3)) if per_round else None
    instruction = library.int8_instruction().decode()
    return Ceilings(
        "cpu",
        threads,
        threads * count * 4 / read,
        threads * rounds * library.f32_per_round() / f32,
        threads * rounds * per_round / int8 if int8 else None,
        None,
        f"C, best of {TRIALS}: reads of {BUFFER >> 20} MB, f32 multiply-adds, {instruction}",
    )


def _with_numpy(threads: int, _: Any) -> Ceilings:
    import numpy as np

    count = BUFFER // 4 // threads
    data = [np.ones(count, np.float32) for _ in range(threads)]
    # A sum of 2^16 elements at a time stays in the cache: memory is what bounds it.
    read = _together(threads, lambda i: data[i].reshape(-1)[: count // 16 * 16].sum())
    factors = [np.ones((1024, 1024), np.float32) for _ in range(threads)]
    product = _together(threads, lambda i: factors[i] @ factors[i])
    return Ceilings(
        "cpu", threads, threads * count * 4 / read, threads * 2 * 1024**3 / product, None, None,
        "numpy (install edgec[compile] for the true peak): sums, and matrix products whose library"
        " may use threads of its own",
    )  # fmt: skip


# --- GPUs ---------------------------------------------------------------------------------------

_SUM = """
util.func public @read(%x: tensor<{rows}x{columns}xf32>) -> tensor<{rows}xf32> {{
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<{rows}xf32>
  %init = linalg.fill ins(%zero : f32) outs(%empty : tensor<{rows}xf32>) -> tensor<{rows}xf32>
  %sum = linalg.generic {{indexing_maps = [affine_map<(m, k) -> (m, k)>, affine_map<(m, k) -> (m)>],
      iterator_types = ["parallel", "reduction"]}}
      ins(%x : tensor<{rows}x{columns}xf32>) outs(%init : tensor<{rows}xf32>) {{
  ^bb0(%a: f32, %s: f32):
    %t = arith.addf %a, %s : f32
    linalg.yield %t : f32
  }} -> tensor<{rows}xf32>
  util.return %sum : tensor<{rows}xf32>
}}
"""
_PRODUCT = """
util.func public @product(%a: tensor<{n}x{n}x{t}>, %b: tensor<{n}x{n}x{t}>)
    -> tensor<{n}x{n}xf32> {{
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : tensor<{n}x{n}xf32>
  %init = linalg.fill ins(%zero : f32) outs(%empty : tensor<{n}x{n}xf32>) -> tensor<{n}x{n}xf32>
  %c = linalg.matmul ins(%a, %b : tensor<{n}x{n}x{t}>, tensor<{n}x{n}x{t}>)
      outs(%init : tensor<{n}x{n}xf32>) -> tensor<{n}x{n}xf32>
  util.return %c : tensor<{n}x{n}xf32>
}}
"""


def device_ceilings(target: str) -> Ceilings:
    """Limits of a CUDA or Vulkan device, with IREE's own code.

    Args:
        target: As for `edgec.compile`, such as `cuda:sm_89` or `vulkan`.

    Raises:
        DeviceError: no such device here, or the compiler cannot make the programs.
    """
    import iree.runtime as rt
    import numpy as np

    from edgec.compiler.iree import IreeError, iree_compile_file
    from edgec.compiler.targets import parse_targets

    (description,) = parse_targets(target)
    if description.on_host:
        raise InputError(f"target '{target}': the host is measured in C, see cpu_ceilings")
    try:
        device = rt.get_device(description.driver)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeviceError(f"device '{target}' cannot be opened: {reason}", "edgec doctor") from None
    config = rt.Config(device=device)
    software = "llvmpipe" in target or "llvmpipe" in description.architecture
    rows, n = (512, 512) if software else (8192, 4096)

    def seconds(text: str, name: str, *arrays: Any) -> float:
        with tempfile.TemporaryDirectory(prefix="edgec-ceilings-") as folder:
            source, output = Path(folder) / "f.mlir", Path(folder) / "f.vmfb"
            head = f" attributes {{hal.device.targets = [{description.device}]}}"
            source.write_text(
                f"module{head} {{{text}}}" if description.device else text, encoding="utf-8"
            )
            flags = (*description.flags, "--iree-opt-level=O2")
            try:
                iree_compile_file(source, output, flags)
            except IreeError as error:
                raise DeviceError(f"ceiling of '{target}': {error.summary}") from None
            modules = rt.load_vm_modules(
                rt.create_hal_module(config.vm_instance, device),
                rt.VmModule.copy_buffer(config.vm_instance, output.read_bytes()),
                config=config,
            )
            function = modules[-1][name]
            given = [rt.asdevicearray(device, array) for array in arrays]
            times = []
            for _ in range(TRIALS + 1):
                began = time.perf_counter()
                result = function(*given)
                # The device is done when its result can be copied.
                np.asarray(result[:1] if hasattr(result, "__getitem__") else result)
                times.append(time.perf_counter() - began)
            return min(times[1:])

    columns = 16384
    data = np.ones((rows, columns), np.float32)
    read = seconds(_SUM.format(rows=rows, columns=columns), "read", data)
    ones = np.ones((n, n), np.float32)
    f32 = seconds(_PRODUCT.format(n=n, t="f32"), "product", ones, ones)
    f16 = None
    if not software:
        half = ones.astype(np.float16)
        f16 = seconds(_PRODUCT.format(n=n, t="f16"), "product", half, half)
    return Ceilings(
        target, None, data.nbytes / read, 2.0 * n**3 / f32, None,
        2.0 * n**3 / f16 if f16 else None,
        f"IREE's own code, best of {TRIALS}: sums of {data.nbytes >> 20} MB and matrix products of"
        f" {n}; a vendor's library may reach more",
    )  # fmt: skip
