"""The cost of quantisation in quality: perplexity and agreement with f32, for every format.

    python benchmarks/quality.py [MODEL_FOLDER] [--text FILE] [--gguf FILE ...] [--json OUT]

The model runs in transformers with its matrices replaced by what a format holds of them, so that
the weights' error stands alone. The second pair of columns also rounds what enters each linear
layer to int8 in blocks of 32, as the CPU kernels do. `ggml` rows are Q8_0 and Q4_0 as ggml's own
reference code rounds them (the gguf package has it); `--gguf` adds files of the same model, read
through edgec's import.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from edgec.models.sources.bundled import BUNDLED
from edgec.models.sources.resolve import resolve
from edgec.models.weights.packing import dequantize
from edgec.models.weights.quantize import quantize
from edgec.models.weights.source import stored_formats
from edgec.weight_formats import WeightFormat

WINDOW = 512
Change = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Row:
    """A format's measurements; `rise` is of the perplexity against f32, a share."""

    name: str
    bits: float
    perplexity: float
    rise: float
    agreement: float
    rounded_rise: float
    rounded_agreement: float


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=BUNDLED / "tiny-dense")
    parser.add_argument("--text", type=Path, help="default: heldout.txt of the model")
    parser.add_argument("--gguf", type=Path, nargs="*", default=[], help="files of the same model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the rows there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    text = (options.text or options.model / "heldout.txt").read_text()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(options.model / "tokenizer.json"))
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False))
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    original = {name: parameter.clone() for name, parameter in model.named_parameters()}
    rows: list[Row] = []
    print(f"{ids.numel()} tokens in windows of {WINDOW}\n\n{_HEADER}", flush=True)
    reference: list[torch.Tensor] = []
    sizes = {name: value.numel() for name, value in original.items() if value.ndim == 2}
    share = sum(size for name, size in sizes.items() if _is_embedding(name)) / sum(sizes.values())
    for name, bits, change in _formats(options.gguf, share):
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                matrix = parameter.ndim == 2
                parameter.copy_(change(key, original[key]) if matrix else original[key])
        likelihood, best = _run(model, ids)
        if not reference:
            reference = [likelihood, best]
        with _rounded_activations(model, rounded=name not in ("f32", "f16", "bf16")):
            again, best_again = _run(model, ids)
        row = Row(
            name,
            bits,
            float(likelihood.mean().exp()),
            float((likelihood.mean() - reference[0].mean()).expm1()),
            float((best == reference[1]).double().mean()),
            float((again.mean() - reference[0].mean()).expm1()),
            float((best_again == reference[1]).double().mean()),
        )
        rows.append(row)
        print(_line(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


_HEADER = """\
| weights | bits | perplexity | rise | top-1 as f32 | rise, int8 activations | top-1 as f32 |
|---|---|---|---|---|---|---|"""


def _line(row: Row) -> str:
    return (
        f"| {row.name} | {row.bits:g} | {row.perplexity:.4f} | {row.rise:+.2%}"
        f" | {row.agreement:.2%} | {row.rounded_rise:+.2%} | {row.rounded_agreement:.2%} |"
    )


def _is_embedding(name: str) -> bool:
    return "embed" in name or name.startswith("lm_head.")


def _formats(files: list[Path], embeddings: float) -> Iterator[tuple[str, float, Change]]:
    """Name, bits a weight, and what becomes of a matrix; `embeddings` is their share of weights."""
    yield "f32", 32, lambda _, matrix: matrix
    yield "f16", 16, lambda _, matrix: matrix.half().float()
    yield "bf16", 16, lambda _, matrix: matrix.bfloat16().float()
    for bits, zeros in ((8, False), (4, False), (4, True)):
        for group in (32, 64, 128, None):
            name = f"int{bits}{' asymmetric' if zeros else ''}, group {group or 'channel'}"
            extra = (2 if zeros else 1) * 16 / group if group else 0
            yield (
                name,
                bits + extra,
                _ours(WeightFormat(bits, group, "zero_point" if zeros else "")),
            )
    table = _ours(WeightFormat(8, 32))
    for zeros in (False, True):
        rest = _ours(WeightFormat(4, 32, "zero_point" if zeros else ""))
        mixed = embeddings * 8.5 + (1 - embeddings) * (5 if zeros else 4.5)
        name = f"int4{' asymmetric' if zeros else ''}, embeddings int8, group 32"
        yield name, round(mixed, 2), _either(table, rest)
    for kind, stored in (
        (gguf.GGMLQuantizationType.Q8_0, 8.5),
        (gguf.GGMLQuantizationType.Q4_0, 4.5),
    ):
        yield f"ggml {kind.name}", stored, _ggml(kind)
    for file in files:
        source = resolve(str(file))
        formats = stored_formats(source.weights)
        weights: Any = source.weights

        def imported(
            name: str, matrix: torch.Tensor, weights: Any = weights, formats: Any = formats
        ) -> torch.Tensor:
            if name not in formats:
                plain: torch.Tensor = weights.read(name)
                return plain.float()
            packed, scales = weights.read_quantized(name)
            return dequantize(packed, scales, formats[name], matrix.shape[0])

        stored = 8 * sum(int(t.n_bytes) for t in gguf.GGUFReader(file).tensors)
        stored /= sum(tensor.count for tensor in weights.tensors().values())
        yield f"{file.name}, imported", round(stored, 2), imported


def _ours(form: WeightFormat) -> Change:
    return lambda name, matrix: dequantize(*quantize(name, matrix, form), form, matrix.shape[0])


def _either(embeddings: Change, others: Change) -> Change:
    return lambda name, matrix: (embeddings if _is_embedding(name) else others)(name, matrix)


def _ggml(kind: Any) -> Change:
    def change(_: str, matrix: torch.Tensor) -> torch.Tensor:
        raw = gguf.quants.quantize(matrix.numpy(), kind)
        return torch.from_numpy(gguf.dequantize(raw, kind)).view(matrix.shape)

    return change


def _run(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood of each token but a window's first, and the most likely one."""
    losses, best = [], []
    with torch.no_grad():
        for window in ids.split(WINDOW):
            logits = model(window[None]).logits[0, :-1].double()
            losses.append(torch.nn.functional.cross_entropy(logits, window[1:], reduction="none"))
            best.append(logits.argmax(-1))
    return torch.cat(losses), torch.cat(best)


@contextmanager
def _rounded_activations(model: Any, *, rounded: bool) -> Iterator[None]:
    """Inside, what enters linear layers is rounded to int8 in blocks of 32."""

    def enter(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x = arguments[0]
        blocks = x.reshape(*x.shape[:-1], -1, 32)
        step = blocks.abs().amax(-1, keepdim=True) / 127
        q = (blocks / step.clamp(min=1e-30)).round()
        return ((q * step).reshape(x.shape), *arguments[1:])

    layers = [m for m in model.modules() if type(m) is torch.nn.Linear] if rounded else []
    hooks = [layer.register_forward_pre_hook(enter) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


if __name__ == "__main__":
    main()
