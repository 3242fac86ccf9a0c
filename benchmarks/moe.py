"""The cost of routing: grouped products, decode and topk against what they could be at best.

    python benchmarks/moe.py -o moe.json              # all, granite-3.1-1b-a400m in f16 and int8
    python benchmarks/moe.py --layers 4 --only decode # a quick look

- `grouped`: the experts' products of a prompt with random routing, against one dense product of
  as many true rows by one matrix of the same size, so of the same FLOPs.
- `decode`: steps of the mixture against steps of its dense twin, which has the same layers with
  one feed-forward network of `experts per token x width of an expert`: the same active size but
  for the routers.
- `topk`: k = 50 of 151,936 logits.

Everything that is compared runs interleaved, and medians are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import iree.runtime as rt
import numpy as np
import torch

from edgec.bench.machine import describe
from edgec.compiler.stages import STAGES
from edgec.compiler.targets import parse_targets
from edgec.models.sources.presets import PRESETS
from edgec.models.weights.quantize import quantize, quantize_experts
from edgec.options import CompileOptions
from edgec.weight_formats import WeightFormat

PRESET = "granite-3.1-1b-a400m"
ROW_BLOCK = 16
_TYPES = {
    torch.float32: "f32", torch.float16: "f16", torch.int8: "si8", torch.int32: "si32",
    torch.int64: "si64",
}  # fmt: skip
_ELEMENTS = {
    torch.float32: rt.HalElementType.FLOAT_32,
    torch.float16: rt.HalElementType.FLOAT_16,
    torch.int8: rt.HalElementType.SINT_8,
    torch.int32: rt.HalElementType.SINT_32,
}


def program(
    operator: str, arguments: list[Any], results: list[tuple[str, str]], dynamic: bool, folder: Path
) -> Callable[[], None]:
    """One operator compiled for this CPU, as a function that runs it on `arguments`.

    Args:
        operator: After `edgec::`.
        arguments: Tensors, ints, bools and None, as the operator takes them.
        results: Shape as in `[?,8]` and element type of each.
        dynamic: Whether the first dimension of the first argument is.
        folder: For the stages' files.
    """
    lines, operands, types, inputs = [], [], [], []
    for i, value in enumerate(arguments):
        operands.append(f"%a{i}")
        if isinstance(value, torch.Tensor):
            shape = [
                "?" if dynamic and i == 0 and d == 0 else str(n) for d, n in enumerate(value.shape)
            ]
            types.append(f"!torch.vtensor<[{','.join(shape)}],{_TYPES[value.dtype]}>")
            inputs.append(f"%a{i}: {types[-1]}")
            continue
        kind = "none" if value is None else "bool" if isinstance(value, bool) else "int"
        text = "" if value is None else f" {str(value).lower()}"
        types.append(f"!torch.{kind}")
        lines.append(f"%a{i} = torch.constant.{kind}{text}")
    outs = ", ".join(f"!torch.vtensor<{shape},{element}>" for shape, element in results)
    names = ", ".join(f"%r#{i}" for i in range(len(results)))
    body = "\n".join(lines)
    source = folder / "torch.mlir"
    source.write_text(f"""
func.func @main({", ".join(inputs)}) -> ({outs}) {{
{body}
%r:{len(results)} = torch.operator "torch.edgec.{operator}"({", ".join(operands)})
    : ({", ".join(types)}) -> ({outs})
return {names} : {outs}
}}""")
    (target,) = parse_targets("cpu")
    options = CompileOptions().for_model(4096, "an operator")
    for stage, run in STAGES.items():
        run(source, folder / f"cpu.{stage}", target, options)
        source = folder / f"cpu.{stage}"
    instance, device = rt.VmInstance(), rt.get_device("local-task")
    module = rt.VmModule.mmap(instance, str(source))
    context = rt.VmContext(instance, [rt.create_hal_module(instance, device), module])
    function = module.lookup_function("main")
    views = []
    for value in arguments:
        if isinstance(value, torch.Tensor):
            buffer = rt.asdevicearray(device, value.contiguous().numpy())._buffer_view.get_buffer()
            views.append(rt.HalBufferView(buffer, list(value.shape), _ELEMENTS[value.dtype]))

    def call() -> None:
        given, found = rt.VmVariantList(len(views)), rt.VmVariantList(len(results))
        for view in views:
            given.push_ref(view)
        context.invoke(function, given, found)

    return call


def interleaved(calls: list[Callable[[], None]], seconds: float = 3.0) -> list[list[float]]:
    """Seconds of each call, in turns, for about as long as given."""
    for call in calls:
        call()
        call()
    times: list[list[float]] = [[] for _ in calls]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[0]) < 10:
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return times


def compared(name: str, calls: dict[str, Callable[[], None]], seconds: float) -> dict[str, Any]:
    """Medians in ms, and the second over the first: 1 when they are equally fast."""
    times = interleaved(list(calls.values()), seconds)
    medians = [statistics.median(t) * 1e3 for t in times]
    result: dict[str, Any] = {f"{k}_ms": round(m, 4) for k, m in zip(calls, medians, strict=True)}
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    result |= {"ratio": round(ratio, 3), "samples": len(times[0])}
    print(f"{name}: {result}", flush=True)
    return result


def grouped(tokens: int, kind: str, n: int, k: int, folder: Path, seconds: float) -> dict[str, Any]:
    """The product of `tokens` tokens' choices by their experts, against one dense product."""
    config = PRESETS[PRESET].config
    experts, chosen = config["num_local_experts"], config["num_experts_per_tok"]
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.rand(tokens, experts, generator=generator).topk(chosen, dim=-1).indices
    counts = torch.bincount(ids.reshape(-1), minlength=experts)
    padded = (counts + ROW_BLOCK - 1) // ROW_BLOCK * ROW_BLOCK
    offsets = torch.cat([torch.zeros(1), padded.cumsum(0)]).to(torch.int32)
    rows = tokens * chosen + experts * ROW_BLOCK  # the bound that the model's own code has
    x, dense = torch.randn(rows, k), torch.randn(tokens * chosen, k)
    bank, matrix = torch.randn(experts, n, k), torch.randn(n, k)
    moe_arguments: list[Any]
    if kind.startswith("int"):
        form = WeightFormat(8 if kind == "int8" else 4, 32)
        packed = quantize_experts("w", bank, experts, form)
        moe_arguments = [x, *packed, None, offsets, counts.to(torch.int32), None, n]
        dense_arguments = [dense, *quantize("w", matrix, form), None, n]
        names = ("quantized_grouped_matmul", "quantized_linear")
    else:
        dtype = {"f32": torch.float32, "f16": torch.float16}[kind]
        moe_arguments = [x, bank.to(dtype), None, offsets, None, False]
        dense_arguments = [dense, matrix.to(dtype), None]
        names = ("grouped_matmul", "linear")
    result = [(f"[?,{n}]", "f32")]
    calls = {}
    for label, operator, arguments in zip(
        ("grouped", "dense"), names, (moe_arguments, dense_arguments), strict=True
    ):
        place = folder / f"{label}-{tokens}-{kind}-{n}x{k}"
        place.mkdir()
        calls[label] = program(operator, arguments, result, True, place)
    found = compared(f"grouped {kind}, {tokens} tokens, {n}x{k}", calls, seconds)
    useful = int(counts.sum())
    return {"tokens": tokens, "weights": kind, "n": n, "k": k, "rows": useful,
            "rows_with_padding": int(offsets[-1])} | found  # fmt: skip


def topk(folder: Path, seconds: float) -> dict[str, Any]:
    """k = 50 of a vocabulary's logits."""
    place = folder / "topk"
    place.mkdir()
    results = [("[1,50]", "f32"), ("[1,50]", "si64")]
    call = program("topk", [torch.randn(1, 151936), 50], results, False, place)
    (times,) = interleaved([call], seconds)
    found = {"n": 151936, "k": 50, "ms": round(statistics.median(times) * 1e3, 4)}
    print(f"topk: {found}", flush=True)
    return found | {"samples": len(times)}


def dense_twin(folder: Path, layers: int | None) -> Path:
    """A folder with the dense model that has the preset's active size, random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from edgec.models.sources.byte_tokenizer import byte_tokenizer_files

    config = dict(PRESETS[PRESET].config)
    chosen = config.pop("num_experts_per_tok")
    for key in ("num_local_experts", "output_router_logits", "router_aux_loss_coef"):
        config.pop(key)
    config |= {
        "model_type": "granite",
        "architectures": ["GraniteForCausalLM"],
        "intermediate_size": chosen * config["intermediate_size"],
        "num_hidden_layers": layers or config["num_hidden_layers"],
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for name, content in byte_tokenizer_files(config["vocab_size"]).items():
        assert isinstance(content, bytes)
        (folder / name).write_bytes(content)
    return folder


def decode(kind: str, layers: int | None, folder: Path, steps: int) -> dict[str, Any]:
    """Steps of the mixture and of its dense twin at a depth of 64 tokens."""
    import edgec

    twin = folder / "twin"
    if not twin.exists():
        dense_twin(twin, layers)
    options: dict[str, Any] = {"dtype": "f16"}
    if kind != "f16":
        options["quantize"] = kind
    sessions = []
    for label, model in (("moe", f"preset:{PRESET}"), ("dense", str(twin))):
        path = folder / f"{label}-{kind}.edgec"
        own: dict[str, Any] = {"layers": layers} if label == "moe" else {}
        edgec.compile(model, output=path, ctx_size=512, **options, **own)
        sessions.append(edgec.Session(path))
    models = [session.artifact.manifest.model for session in sessions]
    depth, rng = 64, np.random.default_rng(0)
    times: list[list[float]] = [[], []]
    for session in sessions:
        session.prefill(rng.integers(0, 49000, depth).tolist())
    for step in range(steps):
        token = int(rng.integers(0, 49000))
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.decode(token)
            if step >= 4:
                taken.append(time.perf_counter() - start)
    ratio = statistics.median(dense / moe for moe, dense in zip(*times, strict=True))
    rates = [round(1 / statistics.median(t), 2) for t in times]
    found = {
        "weights": kind,
        "layers": models[0].layers,
        "active_parameters": [m.active_parameters for m in models],
        "moe_tokens_per_second": rates[0],
        "dense_tokens_per_second": rates[1],
        "ratio": round(ratio, 3),
        "samples": len(times[0]),
    }
    print(f"decode: {found}", flush=True)
    return found


def main() -> None:
    """Measures what the options ask for and writes or prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, help="of the decode comparison (default: all)")
    parser.add_argument("--weights", default="f16,int8", help="f32, f16, int8, int4")
    parser.add_argument("--only", choices=("grouped", "decode", "topk"))
    parser.add_argument("--steps", type=int, default=64, help="of the decode comparison")
    parser.add_argument("--seconds", type=float, default=3.0, help="of every other comparison")
    parser.add_argument("-o", "--output", type=Path, help="JSON file (default: print)")
    options = parser.parse_args()
    kinds = options.weights.split(",")
    result: dict[str, Any] = {"benchmark": "moe", "preset": PRESET, "machine": describe()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.only in (None, "grouped"):
            result["grouped"] = [
                grouped(tokens, kind, n, k, folder, options.seconds)
                for kind in kinds
                for n, k in ((1024, 1024), (1024, 512))
                for tokens in (128, 512)
            ]
        if options.only in (None, "topk"):
            result["topk"] = topk(folder, options.seconds)
        if options.only in (None, "decode"):
            result["decode"] = [
                decode(kind, options.layers, folder, options.steps)
                for kind in kinds
                if kind != "f32"
            ]
    text = json.dumps(result, indent=2) + "\n"
    if options.output:
        options.output.write_text(text, "utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
