"""The manifest: the contract between the compiler, which writes it, and the runtime.

An artifact is a folder with `manifest.json`, one `.vmfb` per target, `weights.irpa`, and the
tokenizer's files. Everything that the runtime knows about a model is in the manifest.

The calling convention of the two entry points, in order:

    prefill(tokens i32[1, P], start i64, length i64, next i32[1, 1], *state) -> logits f32[1, V]
    decode (tokens i32[1, 1], start i64,             next i32[1, 1], *state) -> logits f32[1, V]

Where `model.rope_switches` has any lengths, `total i64` follows `length`: how long the sequence is
with all chunks of the prompt. Positions of a sequence longer than such a length are encoded
otherwise, all of them: passing one, its tokens are computed again.

For each of `batch_sizes` above 1 there is a `decode_<B>`, which takes the arguments of `decode` B
times, one sequence after the other, and gives logits f32[B, V].

`P` is a multiple of `prompt.multiple_of`; only the first `length` tokens are true, the others are
padding. `start` is the position of the first token in the sequence (any number, not a multiple).
`logits` belong to the last true token, and their argmax is written into the buffer `next`, which
can be the next step's `tokens` while the host still waits for it. Where the largest is not finite,
a NaN being the largest, -1 is written. What is no id in `tokens` counts as the nearest one. The
functions of these names block; `prefill$async` and `decode$async` take two more arguments, a fence
to wait for and one to signal, and return when the work is queued. The state buffers are read and
updated in place; the first dimension of those of the kind `attention` has `prompt.multiple_of` more
rows than the context, so that a padded block that ends past the context still fits. Those of the
kind `window` are rings, position p in row `p % rows`, of at least `window - 1 + prompt.max` rows:
what a call writes, and what its first token sees before it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import reprlib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgec.errors import ArtifactError

__all__ = [
    "DTYPE_BYTES",
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "EntryPoint",
    "FileRecord",
    "Manifest",
    "Memory",
    "ModelInfo",
    "ParameterFile",
    "Program",
    "Prompt",
    "StateBuffer",
    "TensorSpec",
    "content_sha256",
    "decode_name",
    "entry_points",
]

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 5

DTYPE_BYTES = {"bf16": 2, "f16": 2, "f32": 4, "i8": 1, "i16": 2, "i32": 4, "i64": 8}
"""Bytes of the element types that a state buffer may have."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: a tensor, or a scalar passed by value when `shape` is empty.

    A dynamic dimension is null. `dtype` is an MLIR element type: i32, i64, f16, bf16, f32.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class EntryPoint:
    """A function of the program. The state buffers follow `inputs` in the manifest's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Prompt:
    """The lengths, in tokens, that one call of `prefill` takes after padding."""

    multiple_of: int
    min: int
    max: int


@dataclass(frozen=True)
class StateBuffer:
    """One tensor of a sequence's state, zero when the sequence starts.

    `kind` says how it behaves when tokens are taken back: `attention` has a row per position,
    so that rows past the length are never read. `window` has them as a ring, in which later
    positions overwrite earlier ones; a token sees `window` of them, its own included. A checkpoint
    copies `checkpoint` of them aside: the window, or none where that memory would undo the saving.
    `expert_counts` only grows: nothing that is computed depends on it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    window: int = 0
    checkpoint: int = 0

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    @property
    def has_rows(self) -> bool:
        """Whether the first dimension is the position, so that tokens can be taken back."""
        return self.kind in _KINDS_WITH_ROWS

    def shortest(self, written: int) -> int:
        """Down to how many tokens they can be taken back, or to none, after `written` positions.

        Below that the next token would see a row that a later position has overwritten.
        """
        lost = written - self.shape[0] if self.window else 0
        return lost + self.window - 1 if lost > 0 else 0

    @property
    def checkpoint_rows(self) -> int:
        """How much of the first dimension a checkpoint copies; all of what has no rows."""
        return self.checkpoint if self.has_rows else self.shape[0]


_KINDS_WITH_ROWS = frozenset({"attention", "window"})


@dataclass(frozen=True)
class Program:
    """The compiled module of one target.

    `pipelines` are edgec's passes that made it, as `edgec-opt` takes them, by the stage they made.
    `requirements` are what the device must have (CPU features, subgroup size, ...), by name.
    A program with `prompt_sizes` has an entry point `prefill_<P>` for each of these lengths, in
    rising order, instead of one `prefill` for every length; otherwise they are called the same.
    A call allocates at most `call_memory` bytes besides weights and state; 0 on a CPU.
    """

    target: str
    driver: str
    file: str
    pipelines: dict[str, str]
    requirements: dict[str, str] = field(default_factory=dict)
    compile_flags: tuple[str, ...] = ()
    prompt_sizes: tuple[int, ...] = ()
    call_memory: int = 0


@dataclass(frozen=True)
class ParameterFile:
    """The weights, memory-mapped by the runtime under the parameter scope `scope`."""

    file: str
    scope: str
    count: int
    bytes: int


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of a file of the artifact."""

    size: int
    sha256: str


@dataclass(frozen=True)
class ModelInfo:
    """The model's description. Counts are of parameters, not bytes.

    `active_parameters` are those that take part in one token's result. `experts` are in each
    layer that has any, and `experts_per_token` of them a token is routed to; 0 without experts.
    `attention` is `operator` where layers attend with edgec's, over the rows there are, or `own`
    where with the family's code, over all rows of the context. `rope_switches` are lengths within
    the context, rising, past each of which positions are encoded otherwise.
    """

    id: str
    revision: str
    architecture: str
    model_type: str
    vocab_size: int
    context: int
    max_context: int
    layers: int
    parameters: int
    active_parameters: int
    experts: int = 0
    experts_per_token: int = 0
    attention: str = "operator"
    rope_switches: tuple[int, ...] = ()


@dataclass(frozen=True)
class Memory:
    """Bytes that a device needs: weights once, state for each sequence.

    `weights_per_token` of the weights are read in a decode step: of experts those that the token
    is routed to, of an embedding table that is only looked up one row.
    """

    weights: int
    state_per_sequence: int
    weights_per_token: int = 0


@dataclass(frozen=True)
class Manifest:
    """Everything the runtime knows about an artifact. See the module's text for the convention.

    `sha256` is that of all other fields, with the files' own among them: it stands for the whole
    artifact. It is made when the manifest is written and checked when it is read.
    """

    schema_version: int
    digest: str
    versions: dict[str, str]
    model: ModelInfo
    options: dict[str, Any]
    dtype: str
    quantization: dict[str, str]
    prompt: Prompt
    entry_points: dict[str, EntryPoint]
    state: tuple[StateBuffer, ...]
    programs: dict[str, Program]
    parameters: ParameterFile
    memory: Memory
    files: dict[str, FileRecord]
    batch_sizes: tuple[int, ...] = (1,)
    sha256: str = ""

    def to_json(self) -> str:
        content = dataclasses.asdict(self)
        return json.dumps(content | {"sha256": content_sha256(content)}, indent=2) + "\n"

    @staticmethod
    def from_json(text: str, where: Path) -> Manifest:
        """Parses and checks a manifest.

        Raises:
            ArtifactError: not JSON, another schema version, a field missing, unknown or of a
                wrong type, which is named; or not as it was written.
        """
        try:
            data = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{where}: not valid JSON: {error}", "compile again") from None
        version = data.get("schema_version") if isinstance(data, dict) else None
        if not isinstance(version, int):
            raise ArtifactError(f"{where}: not an edgec manifest", "give a folder that edgec made")
        if version > SCHEMA_VERSION:
            raise ArtifactError(
                f"{where}: schema {version} is newer than this edgec reads ({SCHEMA_VERSION})",
                "upgrade edgec",
            )
        if version < SCHEMA_VERSION:
            raise ArtifactError(
                f"{where}: schema {version} is older than this edgec reads ({SCHEMA_VERSION})",
                "compile again",
            )
        if not _is_shallow(data.get("options")):
            raise ArtifactError(f"{where}: options are nested too deeply", "compile again")
        manifest = _parse(Manifest, data, where, "manifest")
        assert isinstance(manifest, Manifest)
        if manifest.sha256 != content_sha256(data):
            raise ArtifactError(f"{where}: differs from its own SHA-256", "compile again")
        return manifest


def decode_name(batch: int) -> str:
    """The entry point that computes a step of so many sequences."""
    return "decode" if batch == 1 else f"decode_{batch}"


def entry_points(
    vocab_size: int, batch_sizes: tuple[int, ...], *, total: bool = False
) -> dict[str, EntryPoint]:
    """The entry points of the convention, for logits of a length and these batches.

    Args:
        total: Whether a prompt's calls are told the length of the whole, see `rope_switches`.
    """
    start, length = TensorSpec("start", (), "i64"), TensorSpec("length", (), "i64")
    following = TensorSpec("next", (1, 1), "i32")
    known = (start, length, TensorSpec("total", (), "i64")) if total else (start, length)
    prompt = (TensorSpec("tokens", (1, None), "i32"), *known, following)
    step = (TensorSpec("tokens", (1, 1), "i32"), start, following)
    logits = (TensorSpec("logits", (1, vocab_size), "f32"),)
    found = {"prefill": EntryPoint(prompt, logits)}
    for size in batch_sizes:
        logits = (TensorSpec("logits", (size, vocab_size), "f32"),)
        found[decode_name(size)] = EntryPoint(step, logits)
    return found


def content_sha256(content: dict[str, Any]) -> str:
    """SHA-256 in hex of a manifest's fields but `sha256`, in one form whatever their order."""
    fields = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


_DEEPEST = 16
_LARGEST = 2**63 - 1


def _is_shallow(value: Any, depth: int = _DEEPEST) -> bool:
    if isinstance(value, dict | list):
        children = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_shallow(child, depth - 1) for child in children)
    return True


def _parse(expected: Any, value: Any, where: Path, name: str) -> Any:
    """Builds a value of the annotated type `expected` from plain JSON, refusing anything else."""
    origin, args = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return value
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        if not isinstance(value, dict):
            raise _wrong(where, name, "an object", value)
        hints = typing.get_type_hints(expected)
        required = {
            f.name
            for f in dataclasses.fields(expected)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        }
        if missing := required - set(value):
            raise ArtifactError(f"{where}: {name} lacks {', '.join(sorted(missing))}")
        if unknown := set(value) - set(hints):
            names = ", ".join(map(_shown, sorted(unknown)))
            raise ArtifactError(f"{where}: {name} has unknown {names}")
        return expected(**{k: _parse(hints[k], v, where, f"{name}.{k}") for k, v in value.items()})
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, name, "a list", value)
        return tuple(_parse(args[0], v, where, f"{name}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, name, "an object", value)
        return {k: _parse(args[1], v, where, f"{name}.{_shown(k)}") for k, v in value.items()}
    if origin is types.UnionType:
        if value is None and type(None) in args:
            return None
        return _parse(next(a for a in args if a is not type(None)), value, where, name)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise _wrong(where, name, expected.__name__, value)
    if expected is int and not 0 <= value <= _LARGEST:  # sizes, lengths and counts, all of them
        raise _wrong(where, name, f"from 0 to {_LARGEST}", value)
    return value


def _wrong(where: Path, name: str, expected: str, value: object) -> ArtifactError:
    shown = reprlib.repr(value)
    return ArtifactError(f"{where}: {name} must be {expected}, got {shown}", "compile again")


def _shown(name: str) -> str:
    """A key of the file in a message: as it is, or quoted and cut."""
    return name if name.isprintable() and len(name) <= 80 else reprlib.repr(name)
