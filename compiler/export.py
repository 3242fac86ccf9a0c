"""From a HF model on the meta device to one MLIR module with the entry points of the contract."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from iree.compiler import ir
from torch import nn

from edgec.compiler.last_row import keep_last_row
from edgec.compiler.options import CompileOptions
from edgec.errors import CompileError, ModelError
from edgec.manifest import EntryPoint, Prompt, StateBuffer, decode_name, entry_points
from edgec.models.call import call, place
from edgec.models.decompositions import DECOMPOSITIONS
from edgec.models.load import LoadedModel
from edgec.models.plugs.discovery import Kept
from edgec.models.plugs.state import CACHE_SCALES, BatchState, SequenceState
from edgec.passes.limits import CACHE_BLOCK

__all__ = ["PARAMETER_SCOPE", "Interface", "export", "interface"]

PARAMETER_SCOPE = "model"


@dataclass(frozen=True)
class Interface:
    """How the runtime calls the compiled module; goes into the manifest as it is."""

    prompt: Prompt
    entry_points: dict[str, EntryPoint]
    state: tuple[StateBuffer, ...]
    rope_switches: tuple[int, ...] = ()


def interface(model: LoadedModel, options: CompileOptions, vocab_size: int) -> Interface:
    """The interface of a model under resolved options; needs no export."""
    assert options.ctx_size is not None and options.chunk_size is not None
    multiple = options.prompt_multiple if options.dynamic_shapes == "input" else 1
    assert options.kv_dtype is not None
    state = []
    for name, kept in model.discovery.state.items():
        if kept.kind != "attention":
            state.append(StateBuffer(name, kept.kind, kept.shape, "f32"))
            continue
        dtype = "i8" if options.kv_dtype == "int8" else options.kv_dtype
        buffer = _attention_buffer(name, kept, dtype, options)
        state.append(buffer)
        if dtype == "i8":
            scales, shape = name + CACHE_SCALES, buffer.shape[:-1]
            state.append(dataclasses.replace(buffer, name=scales, shape=shape, dtype="f32"))
    switches = _rope_switches(model, options)
    prompt = Prompt(multiple_of=multiple, min=multiple, max=options.chunk_size)
    points = entry_points(vocab_size, options.batch, total=bool(switches))
    return Interface(prompt, points, tuple(state), switches)


def _rope_switches(model: LoadedModel, options: CompileOptions) -> tuple[int, ...]:
    """The lengths at which positions become encoded otherwise, those that the context passes."""
    assert options.ctx_size is not None
    return tuple(length for length in model.rope_switches if length < options.ctx_size)


def _attention_buffer(name: str, kept: Kept, dtype: str, options: CompileOptions) -> StateBuffer:
    """A ring where that is shorter than a row for each position.

    With a copy of its window it can be taken back to a checkpoint, if there is memory for both in
    what a row for each position would take.
    """
    assert options.chunk_size is not None
    rows = _attention_rows(options)
    ring = _ring_rows(kept.window, options.chunk_size)
    if not kept.window or ring >= rows:
        return StateBuffer(name, "attention", (rows, *kept.shape), dtype)
    checkpoint = kept.window if ring + kept.window <= rows else 0
    return StateBuffer(name, "window", (ring, *kept.shape), dtype, kept.window, checkpoint)


def _ring_rows(window: int, chunk: int) -> int:
    """Room for a prompt chunk, padding included, and for what its first token looks back on."""
    return _in_blocks(window - 1 + chunk)


def _attention_rows(options: CompileOptions) -> int:
    """A row for each position, and for padding that goes past the context; in whole blocks."""
    assert options.ctx_size is not None
    return _in_blocks(options.ctx_size + options.prompt_multiple)


def _in_blocks(rows: int) -> int:
    return -(-rows // CACHE_BLOCK) * CACHE_BLOCK


class _Program(nn.Module):
    """A HF model called as the contract says; `state` is a flat list of the buffers `names`."""

    def __init__(
        self,
        model: LoadedModel,
        capacity: int,
        names: list[str],
        switches: tuple[int, ...],
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.model = model.module
        self.discovery = model.discovery
        self.capacity = capacity
        self.multiple = multiple
        self.names = names
        self.switches = switches
        config: Any = model.module.config
        self.family = f"model type '{config.model_type}'"

    def sequence(
        self,
        start: torch.Tensor,
        state: list[torch.Tensor],
        length: torch.Tensor | None = None,
        total: torch.Tensor | None = None,
    ) -> SequenceState:
        buffers = dict(zip(self.names, state, strict=True))
        if length is None and self.switches:
            total = start + 1
        return SequenceState(
            start, self.capacity, self.discovery, buffers, length, self.multiple, total
        )

    def run(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        start: torch.Tensor,
        length: torch.Tensor | None,
        following: torch.Tensor,
        state: list[torch.Tensor],
        total: torch.Tensor | None = None,
    ) -> torch.Tensor:
        # The head runs for one row: that of the last true token.
        last = 0 if length is None else (length - 1).reshape(1)
        sequence = self.sequence(start, state, length, total)
        logits = call(self.model, self.known(tokens), positions, sequence, last)[0]
        result: torch.Tensor = logits.to(torch.float32)
        following.copy_(_greedy(result))
        return result

    def known(self, tokens: torch.Tensor) -> torch.Tensor:
        """Ids of the vocabulary in place of others: a step may be queued behind one without any."""
        return tokens.clamp(0, self.discovery.vocab_size - 1)


def _greedy(logits: torch.Tensor) -> torch.Tensor:
    """The greedy token of each row, i32 `[rows, 1]`; -1 where the logits are not finite.

    The argmax finds a NaN and infinity before any number.
    """
    best = logits.argmax(dim=-1, keepdim=True)
    return torch.where(logits.gather(-1, best).abs() < math.inf, best, -1).to(torch.int32)


# What a sequence brings to a step: its token, its position, where the next token goes, its state.
_Row = tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]


class _Prefill(_Program):
    def forward(
        self,
        tokens: torch.Tensor,
        start: torch.Tensor,
        length: torch.Tensor,
        following: torch.Tensor,
        state: list[torch.Tensor],
    ) -> torch.Tensor:
        return self.run(tokens, self.positions(tokens, start), start, length, following, state)

    def positions(self, tokens: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        offsets = torch.arange(tokens.shape[1], dtype=torch.int64, device=tokens.device)
        return (offsets + start)[None]


class _PrefillOfTotal(_Prefill):
    """Is told how long the sequence will be when all chunks of its prompt are done."""

    def forward(  # type: ignore[override]
        self,
        tokens: torch.Tensor,
        start: torch.Tensor,
        length: torch.Tensor,
        total: torch.Tensor,
        following: torch.Tensor,
        state: list[torch.Tensor],
    ) -> torch.Tensor:
        positions = self.positions(tokens, start)
        return self.run(tokens, positions, start, length, following, state, total)


class _Decode(_Program):
    def forward(
        self,
        tokens: torch.Tensor,
        start: torch.Tensor,
        following: torch.Tensor,
        state: list[torch.Tensor],
    ) -> torch.Tensor:
        return self.run(tokens, start.reshape(1, 1), start, None, following, state)


class _BatchedDecode(_Program):
    def forward(self, rows: list[_Row]) -> torch.Tensor:
        parts = tuple(self.sequence(start, state) for _, start, _, state in rows)
        tokens = self.known(torch.cat([tokens for tokens, _, _, _ in rows]))
        positions = torch.stack([start for _, start, _, _ in rows]).reshape(-1, 1)
        logits = call(self.model, tokens, positions, BatchState(parts))[:, 0].to(torch.float32)
        picks = _greedy(logits)
        for at, (_, _, following, _) in enumerate(rows):
            following.copy_(picks[at : at + 1])
        return logits


def export(model: LoadedModel, options: CompileOptions, context: ir.Context) -> ir.Module:
    """Exports prefill and decode over the same parameters, as one module in the torch dialect.

    Raises:
        ModelError: the modelling code does something that torch.export or the importer cannot
            follow.
    """
    assert options.chunk_size is not None
    spec = interface(model, options, 1)
    capacity, names = _attention_rows(options), [b.name for b in spec.state]

    # Distinct objects each time: torch.export takes one tensor given twice for one input.
    def state() -> list[torch.Tensor]:
        return [
            torch.empty(b.shape, dtype=getattr(torch, _TORCH[b.dtype]), device="meta")
            for b in spec.state
        ]

    def number() -> torch.Tensor:
        return torch.zeros((), dtype=torch.int64, device="meta")

    def row() -> _Row:
        return _tokens(1), number(), _tokens(1), state()

    prompt, dynamic = _prompt_dimension(options)
    switches = spec.rope_switches
    kind, numbers = (_PrefillOfTotal, 3) if switches else (_Prefill, 2)
    programs = {
        "prefill": _export(
            kind(model, capacity, names, switches, spec.prompt.multiple_of),
            (_tokens(prompt), *(number() for _ in range(numbers)), _tokens(1), state()),
            (dynamic, *[None] * (numbers + 1), [None] * len(spec.state)),
        ),
        "decode": _export(_Decode(model, capacity, names, switches), row(), None),
    }
    for size in options.batch:
        if size > 1:
            rows = [row() for _ in range(size)]
            programs[decode_name(size)] = _export(
                _BatchedDecode(model, capacity, names, switches), (rows,), None
            )
    keep_last_row(programs["prefill"])
    for program in programs.values():
        _restore_buffers(program, model.buffers)
    return _import(programs, model, context)


_TORCH = {"i8": "int8", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def _tokens(count: int) -> torch.Tensor:
    return torch.zeros(1, count, dtype=torch.int32, device="meta")


def _prompt_dimension(options: CompileOptions) -> tuple[int, dict[int, Any] | None]:
    """An example length for tracing, and what torch.export is told about the dimension."""
    assert options.chunk_size is not None
    multiple, chunk = options.prompt_multiple, options.chunk_size
    if options.dynamic_shapes != "input":
        return min(chunk, 48), {1: torch.export.Dim("p", min=1, max=chunk)}
    if chunk == multiple:
        return chunk, None
    # torch takes a dimension for 2 or more. Of one that can be no more than 2 it then knows the
    # value, and refuses programs that would depend on it.
    blocks = torch.export.Dim("n", min=1, max=max(3, chunk // multiple))
    return 2 * multiple, {1: multiple * blocks}


def _export(
    program: _Program, arguments: tuple[Any, ...], dynamic: Any
) -> torch.export.ExportedProgram:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(program, arguments, dynamic_shapes=dynamic, strict=False)
            # Without this, in-place updates of the state would stay in the graph.
            decomposed: torch.export.ExportedProgram = exported.run_decompositions(DECOMPOSITIONS)
            return decomposed
    except ModelError as error:
        raise ModelError(f"{program.family}: {error.what}", error.remedy) from None
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ModelError(
            f"{program.family}: torch.export cannot follow the modelling code: "
            f"{type(error).__name__}: {first}{place(error)}",
            "this model is not supported yet",
        ) from error


def _restore_buffers(
    program: torch.export.ExportedProgram, buffers: Mapping[str, torch.Tensor]
) -> None:
    """Puts the true values of the model's buffers where the export saw the meta device."""
    tables: list[dict[str, Any]] = [program.constants, program.state_dict]
    for table in tables:
        for name in table:
            true = buffers.get(name.removeprefix("model."))
            if true is not None:
                table[name] = true
    for name, value in program.constants.items():
        if isinstance(value, torch.Tensor) and value.device.type == "meta":
            raise CompileError(f"the constant {name} was traced without data")


def _import(
    programs: dict[str, torch.export.ExportedProgram], model: LoadedModel, context: ir.Context
) -> ir.Module:
    # Importing turbine takes seconds; nothing else needs it.
    from iree.turbine import aot
    from iree.turbine.aot.compiled_module import ExportTargetDef
    from iree.turbine.aot.fx_programs import FxPrograms

    for name, parameter in model.parameters.items():
        aot.ExternalTensorTrait(external_scope=PARAMETER_SCOPE, external_name=name).set(parameter)
    fx = FxPrograms()
    for name, program in programs.items():
        # The importer knows a parameter by its object; the export may have wrapped it anew.
        for key in program.state_dict:
            plain = key.removeprefix("model.")
            canonical = model.tied.get(plain, plain)
            if canonical in model.parameters:
                program.state_dict[key] = model.parameters[canonical]
        fx.programs[name] = ExportTargetDef(program)
    # The option is what keeps the multiple of 32; the overload's signature leaves it out.
    output = aot.export(fx, import_symbolic_shape_expressions=True)  # type: ignore[call-overload]
    with context:
        return ir.Module.parse(str(output.mlir_module), context)
