"""The options of a compile, declared once: the command line, Python and the documents follow.

A field's `Flag` says how the command line offers it and which values it may have. The keywords of
`edgec.compile` are the fields of `CompileRequest`; `edgec.cli.flags` makes the flags of them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_type_hints

from edgec.errors import InputError
from edgec.progress import Progress

__all__ = [
    "DEFAULT_CONTEXT",
    "STAGE_NAMES",
    "CompileOptions",
    "CompileRequest",
    "Flag",
    "SourceOptions",
    "flags_of",
]

DEFAULT_CONTEXT = 4096
"""Tokens; a model with a shorter limit gets its own."""

MAX_BATCH = 32
"""Sequences in one decode step. Each brings its own attention, so the program grows with them."""

STAGE_NAMES = ("torch", "lowered", "input", "stream", "vmfb")
"""The export and then the stages of a target, in order; all but the last are dumped as IR."""

_FORMATS = ("none", "int8", "int4")


@dataclass(frozen=True)
class Flag:
    """How a field is offered on the command line, and which values it may have.

    Attributes:
        help: A line for `--help`.
        name: The flag, where it is not the field's name with dashes.
        short: A letter that stands for it, with its dash.
        metavar: What stands for the value in `--help`.
        environment: Whether `EDGEC_<FIELD>` stands for the flag.
        choices: The values, where they can be listed. None is one where it is the default.
        least: The smallest number.
    """

    help: str
    name: str = ""
    short: str = ""
    metavar: str | None = None
    environment: bool = False
    choices: tuple[str, ...] = ()
    least: int | None = None


def flags_of(options: type) -> dict[str, tuple[Any, Flag]]:
    """The type and the flag of each field of an options class that has one, in order."""
    hints = get_type_hints(options, include_extras=True)
    annotated = {f.name: get_args(hints[f.name]) for f in dataclasses.fields(options)}
    return {
        name: (arguments[0], arguments[-1])
        for name, arguments in annotated.items()
        if arguments and isinstance(arguments[-1], Flag)
    }


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A model, what it is compiled for, and where the artifact goes."""

    model: Annotated[
        str, Flag("Hub id, folder, GGUF file, or a name that `edgec models` lists.")
    ] = field(kw_only=False)
    target: Annotated[
        str, Flag("cpu, vulkan[:ARCH], cuda[:ARCH]; several with commas.", environment=True)
    ] = "cpu"
    output: Annotated[
        str | Path | None,
        Flag("Folder to write; default in the cache.", short="-o", metavar="DIR"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """Everything, besides the model and the targets, that changes what is compiled."""

    dtype: Annotated[
        str, Flag("f32, f16 or bf16.", environment=True, choices=("f32", "f16", "bf16"))
    ] = "f32"
    """Weights that are not quantised are stored in it."""
    kv_dtype: Annotated[
        str | None,
        Flag(
            "Type of the KV cache: f32, f16, bf16, int8; default --dtype, or f16 if weights are "
            "quantised.",
            metavar="TYPE", environment=True, choices=("f32", "f16", "bf16", "int8"),
        ),
    ] = None  # fmt: skip
    """The default is f16 if weights are quantised, here or in the model: their rounding is far
    above that of f16."""
    ctx_size: Annotated[
        int | None,
        Flag(
            f"Context in tokens; default the model's, at most {DEFAULT_CONTEXT}.",
            short="-c", metavar="N", environment=True,
        ),
    ] = None  # fmt: skip
    prompt_multiple: Annotated[
        int,
        Flag("Prompts are padded to a multiple of N tokens.", metavar="N", environment=True),
    ] = 32
    chunk_size: Annotated[
        int | None,
        Flag("Longer prompts are computed N tokens at a time.", metavar="N", environment=True),
    ] = None
    batch: Annotated[
        tuple[int, ...],
        Flag(
            "Sequences that a decode step can compute at once, such as 1,4.",
            metavar="SIZES", environment=True,
        ),
    ] = (1,)  # fmt: skip
    """Sorted, and 1 is always among them. A step of several reads the weights once for all."""
    dynamic_shapes: Annotated[
        str,
        Flag(
            "Where prompts are padded: input (the model's), op (each op's) or none.",
            environment=True, choices=("input", "op", "none"),
        ),
    ] = "input"  # fmt: skip
    """`input`: the multiple is stated at the model's input; `none`: a plain dynamic dimension;
    `op`: that, and operations pad for themselves."""
    quantize: Annotated[str, Flag("none, int8 or int4.", environment=True, choices=_FORMATS)] = (
        "none"
    )
    """Format of the weights of linear layers and embeddings."""
    group_size: Annotated[
        int | str | None,
        Flag(
            "Weights that share a scale: 32 (default), 64, 128 or channel.",
            metavar="N", environment=True, choices=("32", "64", "128", "channel"),
        ),
    ] = None  # fmt: skip
    """`channel` is a whole row of the matrix."""
    embedding_quantize: Annotated[
        str | None,
        Flag(
            "The same for embeddings and lm_head; default as --quantize.",
            metavar="FORMAT", environment=True, choices=_FORMATS,
        ),
    ] = None  # fmt: skip
    asymmetric: Annotated[
        bool, Flag("int4: a zero point beside each scale, for better quality.", environment=True)
    ] = False
    expert_stats: Annotated[bool, Flag("Count the tokens of each expert, for run --stats.")] = False
    layers: Annotated[int | None, Flag("The first N layers only.", metavar="N", least=1)] = None
    seed: Annotated[int, Flag("Presets: seed of the weights.")] = 0
    extra_compile_args: Annotated[
        tuple[str, ...],
        Flag("Pass X to the compiler; repeatable.", name="--extra-compile-arg", metavar="X"),
    ] = ()

    def __post_init__(self) -> None:
        for name in ("batch", "extra_compile_args"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for name, (_, flag) in flags_of(type(self)).items():
            if (value := getattr(self, name)) == defaults[name]:
                continue
            if flag.choices and str(value) not in flag.choices:
                raise InputError(
                    f"{_dashed(name)} '{value}': must be one of {', '.join(flag.choices)}"
                )
            if flag.least is not None and value < flag.least:
                raise InputError(f"{_dashed(name)} {value}: must be at least {flag.least}")
        quantized = {self.quantize, self.embedding_quantize} - {None, "none"}
        if self.group_size is not None and not quantized:
            raise InputError(
                f"group-size {self.group_size}: nothing is quantised", "add --quantize int4"
            )
        if self.asymmetric and "int4" not in quantized:
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
                    f"{_dashed(name)} {value}: must be a multiple of the prompt multiple,"
                    f" {multiple}",
                    f"try {max(1, (value + multiple // 2) // multiple) * multiple}",
                )
        if not self.batch or any(not 1 <= size <= MAX_BATCH for size in self.batch):
            raise InputError(f"batch {self.batch}: must be sizes from 1 to {MAX_BATCH}")
        object.__setattr__(self, "batch", tuple(sorted({1, *self.batch})))
        if self.expert_stats and self.batch != (1,):
            raise InputError("expert-stats: counts one sequence at a time", "drop --batch")

    def for_model(self, max_context: int, model: str, *, quantized: bool = False) -> Self:
        """Fills in what is not given: context, chunk, type of the cache, group of the scales.

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
        group = self.group_size
        if {self.quantize, self.embedding_quantize} - {None, "none"}:
            group = str(group or 32)
        return dataclasses.replace(
            self, ctx_size=context, chunk_size=chunk, kv_dtype=kv_dtype, group_size=group
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields of this class as JSON has them, without those of a subclass."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(CompileOptions)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How a model is fetched, and where compiled ones are kept."""

    revision: Annotated[str | None, Flag("Branch, tag or commit on the hub.", environment=True)] = (
        None
    )
    offline: Annotated[bool, Flag("Use downloaded files only.", environment=True)] = False
    trust_remote_code: Annotated[
        bool, Flag("Run modelling code that comes with the model.", environment=True)
    ] = False
    token: str | None = field(default=None, repr=False)
    """For gated models; by default `HF_TOKEN`."""
    cache_dir: Annotated[
        str | Path | None, Flag("Where compiled models are kept.", environment=True)
    ] = None

    def request(self, model: str, target: str) -> CompileRequest:
        """A compile of a model into the cache, with this and otherwise the defaults."""
        return CompileRequest(model, target=target, **vars(self))


@dataclass(frozen=True, kw_only=True)
class CompileRequest(SourceOptions, CompileOptions, Destination):
    """A whole compile: the keywords of `edgec.compile`."""

    use_cache: Annotated[
        bool, Flag("Build even if an equal build is there.", name="--no-cache")
    ] = True
    """Whether an equal build that is already there will do."""
    force: Annotated[bool, Flag("Build again, and overwrite the output.")] = False
    dump_ir: Annotated[
        str | Path | None, Flag("Write the IR of every stage there.", metavar="DIR")
    ] = None
    stop_after: Annotated[
        str | None, Flag("Stop when this stage is done.", metavar="STAGE", choices=STAGE_NAMES)
    ] = None
    start_from: Annotated[str | Path | None, Flag("Go on from a dumped file.", metavar="FILE")] = (
        None
    )
    progress: Progress | None = None
    """Told about the stages."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop_after is not None and self.dump_ir is None:
            raise InputError(
                "stop-after: without --dump-ir nothing would be kept", "add --dump-ir DIR"
            )


def _dashed(name: str) -> str:
    return name.replace("_", "-")
