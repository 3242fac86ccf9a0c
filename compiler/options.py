"""What a user can choose about a compile, checked once and frozen."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from edgec.errors import InputError
from edgec.weight_formats import WeightFormat

__all__ = ["DEFAULT_CONTEXT", "CompileOptions"]

DEFAULT_CONTEXT = 4096
"""Tokens; a model with a shorter limit gets its own."""

MAX_BATCH = 32
"""Sequences in one decode step. Each brings its own attention, so the program grows with them."""

DTYPES = ("f32", "f16", "bf16")
KV_DTYPES = ("f32", "f16", "bf16", "int8")
DYNAMIC_SHAPES = ("input", "op", "none")
QUANTIZE = ("none", "int8", "int4")
GROUP_SIZES = ("32", "64", "128", "channel")


@dataclass(frozen=True)
class CompileOptions:
    """Everything, besides the model and the targets, that changes what is compiled.

    Attributes:
        dtype: Type in which weights that are not quantised are stored: f32, f16 or bf16.
        kv_dtype: Type of the KV cache: f32, f16, bf16 or int8; None for `dtype`, or f16 if weights
            are quantised, here or in the model, whose rounding is then far above f16's.
        ctx_size: Longest sequence in tokens, or None for the model's own up to 4096.
        prompt_multiple: Prompts are padded to a multiple of this.
        chunk_size: Longest prompt of one call, in tokens; longer ones take several calls.
        batch: How many sequences one decode step may compute, in rising order and from 1 on: a
            step of several reads the weights once for all of them.
        prompt_sizes: Programs for these prompt lengths in place of one for every length; empty for
            what the target needs. The first is `prompt_multiple`, so that any prompt fits.
        dynamic_shapes: `input`: the multiple is stated at the model's input; `none`: a plain
            dynamic dimension; `op`: that, and operations pad for themselves.
        block_prompts: Whether code generation splits dimensions by the multiple; None for what is
            usual on the target. Either answer is for measurements.
        linear_kernels: Whether linear layers and experts of floats use a CPU's kernels; without
            them it is generated code, for measurements of that.
        quantize: Format of the weights of linear layers and embeddings: none, int8 or int4.
        group_size: Weights of a row that share a scale: 32, 64, 128 or channel (the row).
        embedding_quantize: The same for embedding tables and `lm_head`; None: as `quantize`.
        asymmetric: Whether each group has a zero point of its own; int4 only.
        expert_stats: Whether the program counts how many tokens each expert gets.
        layers: Only the first layers of the model, for measurements; None for all.
        seed: Of a preset's random weights.
        extra_compile_args: Passed on to iree-compile.
    """

    dtype: str = "f32"
    kv_dtype: str | None = None
    ctx_size: int | None = None
    prompt_multiple: int = 32
    chunk_size: int | None = None
    batch: tuple[int, ...] = (1,)
    prompt_sizes: tuple[int, ...] = ()
    dynamic_shapes: str = "input"
    block_prompts: bool | None = None
    linear_kernels: bool = True
    quantize: str = "none"
    group_size: str = "32"
    embedding_quantize: str | None = None
    asymmetric: bool = False
    expert_stats: bool = False
    layers: int | None = None
    seed: int = 0
    extra_compile_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, DTYPES)
        if self.kv_dtype is not None:
            _one_of("kv-dtype", self.kv_dtype, KV_DTYPES)
        _one_of("dynamic-shapes", self.dynamic_shapes, DYNAMIC_SHAPES)
        _one_of("quantize", self.quantize, QUANTIZE)
        if self.embedding_quantize is not None:
            _one_of("embedding-quantize", self.embedding_quantize, QUANTIZE)
        _one_of("group-size", self.group_size, GROUP_SIZES)
        if self.asymmetric and "int4" not in (self.quantize, self.embedding_quantize):
            raise InputError(
                f"asymmetric: {self.quantize} has no zero points", "add --quantize int4, or drop it"
            )
        multiple = self.prompt_multiple
        if not 1 <= multiple <= 1024:
            raise InputError(f"prompt-multiple {multiple}: must be from 1 to 1024")
        for name in ("ctx_size", "chunk_size"):
            value = getattr(self, name)
            if value is not None and (value < multiple or value % multiple):
                raise InputError(
                    f"{name.replace('_', '-')} {value}: must be a multiple of the prompt multiple,"
                    f" {multiple}",
                    f"try {max(1, (value + multiple // 2) // multiple) * multiple}",
                )
        if not self.batch or any(not 1 <= size <= MAX_BATCH for size in self.batch):
            raise InputError(f"batch {self.batch}: must be sizes from 1 to {MAX_BATCH}")
        object.__setattr__(self, "batch", tuple(sorted({1, *self.batch})))
        sizes = self.prompt_sizes
        if sizes and (
            sizes[0] != multiple
            or any(size % multiple for size in sizes)
            or list(sizes) != sorted(set(sizes))
            or self.dynamic_shapes != "input"
        ):
            raise InputError(
                f"prompt-sizes {sizes}: must be rising multiples of the prompt multiple that start"
                f" with it, {multiple}, with dynamic-shapes input"
            )
        if self.expert_stats and self.batch != (1,):
            raise InputError("expert-stats: counts one sequence at a time", "drop --batch")
        if self.layers is not None and self.layers < 1:
            raise InputError(f"layers {self.layers}: must be at least 1")

    @property
    def weight_format(self) -> WeightFormat | None:
        """How matrices are quantised, if they are."""
        return self._format(self.quantize)

    @property
    def embedding_format(self) -> WeightFormat | None:
        """How embedding tables and `lm_head` are."""
        return self._format(self.embedding_quantize or self.quantize)

    def _format(self, name: str) -> WeightFormat | None:
        if name == "none":
            return None
        group = None if self.group_size == "channel" else int(self.group_size)
        bits = {"int8": 8, "int4": 4}[name]
        return WeightFormat(bits, group, "zero_point" if self.asymmetric and bits == 4 else "")

    def for_model(self, max_context: int, model: str, *, quantized: bool = False) -> CompileOptions:
        """The options with context, chunk and the type of the cache filled in.

        Args:
            max_context: The longest sequence that the model was made for, in tokens.
            model: Its name, for errors.
            quantized: Whether its weights are stored as integers already.

        Raises:
            InputError: the context is beyond what the model was made for.
        """
        multiple = self.prompt_multiple
        context = self.ctx_size
        if context is None:
            context = min(max_context, DEFAULT_CONTEXT) // multiple * multiple
            if context == 0:
                raise InputError(
                    f"prompt-multiple {multiple}: longer than the context of {model}, {max_context}"
                )
        elif context > max_context:
            raise InputError(
                f"ctx-size {context}: beyond the context of {model}, {max_context} tokens",
                f"use -c {max_context // multiple * multiple} or less",
            )
        chunk = self.chunk_size
        if chunk is None:
            chunk = max(multiple, min(context, 256) // multiple * multiple)
        elif chunk > context:
            raise InputError(f"chunk-size {chunk}: larger than the context, {context}")
        kv_dtype = self.kv_dtype
        if kv_dtype is None:
            narrow = quantized or self.quantize != "none"
            kv_dtype = "f16" if narrow and self.dtype == "f32" else self.dtype
        return dataclasses.replace(self, ctx_size=context, chunk_size=chunk, kv_dtype=kv_dtype)

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} '{value}': must be one of {', '.join(allowed)}")
