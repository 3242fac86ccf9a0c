"""Which tensors a configuration needs, and whether a checkpoint has them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgec.errors import ModelError
from edgec.models.weights.fused import Conversions, Fusion
from edgec.models.weights.source import QuantizedSource, TensorInfo, WeightSource, first_few

if TYPE_CHECKING:
    import torch

__all__ = [
    "CheckedWeights",
    "ExpectedTensors",
    "check_weights",
    "expected_tensors",
    "own_tensors",
    "tensors_of",
]

_log = logging.getLogger("edgec.models")

FLOATS = ("f64", "f32", "f16", "bf16")
F8 = ("f8e4m3fn", "f8e5m2")


@dataclass(frozen=True)
class ExpectedTensors:
    """What a model's modules need from a checkpoint.

    `shapes` has the parameters and persistent buffers by module name, a tied one once; `tied`
    maps the other names of tied parameters to the one in `shapes`. `rename` turns a checkpoint's
    name into a module's, as transformers does when it loads (older names, a missing or extra
    base-model prefix). `conversions` are transformers' rules for parameters that checkpoints store
    in parts. `ignored` are regular expressions of checkpoint names without a use.
    """

    shapes: dict[str, tuple[int, ...]]
    tied: dict[str, str] = field(default_factory=dict)
    rename: Callable[[str], str] = str
    conversions: Conversions = field(default_factory=Conversions)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckedWeights:
    """A checkpoint that has every expected tensor, read by module names: a `WeightSource`.

    `names` maps module names, tied ones included, to those in `source`, and `fused` those that
    are made of several tensors; `unused` are the checkpoint's tensors that the configuration does
    not need, worth a warning.
    """

    source: WeightSource
    names: dict[str, str]
    unused: list[str]
    fused: dict[str, Fusion] = field(default_factory=dict)

    def tensors(self) -> dict[str, TensorInfo]:
        """See `WeightSource`."""
        stored = self.source.tensors()
        whole = {name: stored[in_file] for name, in_file in self.names.items()}
        made = {name: fusion.shapes(stored)[name] for name, fusion in self.fused.items()}
        return whole | made

    def read(self, name: str) -> torch.Tensor:
        """See `WeightSource`."""
        if name in self.fused:
            return self.fused[name].convert(self._read)[name]
        return self._read(self.names[name])

    def _read(self, stored: str) -> torch.Tensor:
        return _widened(self.source.read(stored))

    def read_quantized(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Packed integers and scales of a matrix that the checkpoint has as integers, else None."""
        stored = self.names.get(name)
        if not isinstance(self.source, QuantizedSource) or stored not in self.source.formats():
            return None
        return self.source.read_quantized(stored)

    def read_experts(self, name: str, experts: int) -> Iterator[torch.Tensor]:
        """The slices of a parameter `[experts, ...]`, one after the other.

        Where a checkpoint stores each expert apart, no more than one is in memory.
        """
        fusion = self.fused.get(name)
        if fusion is not None and all(len(names) == experts for names in fusion.parts.values()):
            for expert in range(experts):
                yield fusion.one(expert).convert(self._read)[name][0]
        else:
            yield from self.read(name)

    def digest(self) -> str:
        """See `WeightSource`."""
        return self.source.digest()

    def warn_of_unused(self) -> None:
        """Says which tensors have no place in the model: it may be another one's checkpoint."""
        if self.unused:
            _log.warning("weights: not used: %s", first_few(sorted(self.unused)))


def expected_tensors(config: Any, *, trust_remote_code: bool = False) -> ExpectedTensors:
    """The tensors that transformers' module for `config` needs.

    Args:
        config: A transformers configuration of a causal language model. It is not changed.
        trust_remote_code: Whether modelling code that came with the model may run.

    Raises:
        ModelError: transformers cannot build the model from this configuration.
    """
    import copy

    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                copy.deepcopy(config), trust_remote_code=trust_remote_code
            )
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"configuration of {config.model_type}: transformers cannot build it: {reason}",
            "check config.json",
        ) from None
    return tensors_of(model)


def tensors_of(model: Any) -> ExpectedTensors:
    """The tensors that a transformers module, which may be on the meta device, needs."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    prefix = model.base_model_prefix
    mapping = get_model_conversion_mapping(model)
    renamings = [r for r in mapping if isinstance(r, WeightRenaming)]
    converters = [r for r in mapping if isinstance(r, WeightConverter)]

    def rename(name: str) -> str:
        for rules in (renamings, []):
            renamed = str(rename_source_key(name, rules, [], prefix, state)[0])
            if renamed in state:
                return renamed
        return name

    def convert(name: str) -> tuple[str, str | None]:
        target, pattern = rename_source_key(name, renamings, converters, prefix, state)
        return str(target), pattern

    return ExpectedTensors(
        {name: shape for name, shape in state.items() if name not in tied},
        tied,
        rename,
        Conversions(convert, {p: c for c in converters for p in c.source_patterns}, model.config),
        tuple(_ignored(model)),
    )


def _ignored(model: Any) -> Iterator[str]:
    """Patterns of names that transformers passes over in a checkpoint, as it builds them."""
    yield from getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    buffers = [name for name, _ in model.named_buffers()]
    if any(name.endswith("rotary_emb.inv_freq") for name in buffers):
        yield r"rotary_emb\.inv_freq"
    if any(name.endswith("position_ids") for name in buffers):
        yield r"(^|\.)position_ids$"


def own_tensors(expected: ExpectedTensors, source: WeightSource) -> list[str]:
    """The tied parameters for which a checkpoint has other values than for what they are tied to.

    transformers does not tie these, whatever the configuration says: they are fine-tuned or merged
    models, whose `lm_head` went its own way.
    """
    found = _found(expected, source)
    first: dict[str, str] = {}
    own = []
    for alias, name in expected.tied.items():
        if alias not in found:
            continue
        stands = first.setdefault(name, name if name in found else alias)
        if stands != alias and not _equal(source, found[stands], found[alias]):
            own.append(alias)
    return own


def _found(expected: ExpectedTensors, source: WeightSource) -> dict[str, str]:
    """The module's names of what a checkpoint has, to its own names."""
    stored = source.tensors()
    # A name that is right as it stands wins over one that only a renaming makes right.
    return {expected.rename(name): name for name in stored} | {name: name for name in stored}


_BLOCK = 1 << 24  # elements compared at a time


def _is_float(stored: Mapping[str, TensorInfo], name: str) -> bool:
    """Whether a tensor's numbers are its values; those in 8 bits that have a scale are not."""
    dtype = stored[name].dtype
    scales = (f"{name}_scale", f"{name}_scale_inv")
    return dtype in FLOATS or (dtype in F8 and not any(scale in stored for scale in scales))


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    """Floats of 8 bits as the same numbers in bf16; others as they are."""
    import torch

    return (
        tensor.to(torch.bfloat16)
        if tensor.dtype.itemsize == 1 and tensor.dtype.is_floating_point
        else tensor
    )


def _equal(source: WeightSource, one: str, other: str) -> bool:
    stored = source.tensors()
    if stored[one].shape != stored[other].shape:
        return False
    left, right = (_widened(source.read(n)).reshape(-1).split(_BLOCK) for n in (one, other))
    return all(bool((a == b).all()) for a, b in zip(left, right, strict=True))


def check_weights(
    expected: ExpectedTensors | Mapping[str, tuple[int, ...]],
    source: WeightSource,
    tied: Mapping[str, str] | None = None,
) -> CheckedWeights:
    """Compares a checkpoint with what a model needs, and reports all that is wrong at once.

    A tied parameter may be stored under any of its names. Tensors without a use are no error.

    Args:
        expected: From `expected_tensors`, or just the shapes by name.
        source: The checkpoint.
        tied: The other names of tied parameters; needed only with just the shapes.

    Raises:
        ModelError: tensors are missing, or have another shape or a packed dtype. Names up to
            eight and says how many there are.
    """
    if not isinstance(expected, ExpectedTensors):
        expected = ExpectedTensors(dict(expected), dict(tied or {}))
    stored, found = source.tensors(), _found(expected, source)
    aliases: dict[str, list[str]] = {}
    for alias, name in expected.tied.items():
        aliases.setdefault(name, []).append(alias)
    problems: list[str] = []
    names: dict[str, str] = {}
    made: dict[str, tuple[Fusion, TensorInfo]] = {}
    for fusion in expected.conversions.find(stored, expected.shapes):
        made |= {n: (fusion, info) for n, info in fusion.shapes(stored).items()}
    fused: dict[str, Fusion] = {}
    for name, shape in expected.shapes.items():
        if name in made:
            fused[name], info = made[name]
            if info.shape != tuple(shape):
                problems.append(f"{fused[name].origin} is {list(info.shape)}, not {list(shape)}")
            elif not all(_is_float(stored, part) for part in fused[name].stored):
                problems.append(f"{fused[name].origin} has the packed dtype {info.dtype}")
            continue
        in_file = next((found[n] for n in (name, *aliases.get(name, ())) if n in found), None)
        if in_file is None:
            problems.append(f"{name} is missing")
            continue
        info = stored[in_file]
        if info.shape != tuple(shape):
            problems.append(f"{in_file} is {list(info.shape)}, not {list(shape)}")
        elif not _is_float(stored, in_file) and info.dtype not in ("i64", "i32", "bool"):
            problems.append(f"{in_file} has the packed dtype {info.dtype}")
        names[name] = in_file
        names |= dict.fromkeys(aliases.get(name, ()), in_file)
    if problems:
        count = f"{len(problems)} tensors do" if len(problems) > 1 else "1 tensor does"
        raise ModelError(
            f"weights: {count} not fit the configuration: {first_few(problems)}",
            "give the config.json and the safetensors files of one and the same model",
        )
    used = set(names.values()) | {part for f in fused.values() for part in f.stored}
    unused = [
        name
        for name in stored
        if name not in used
        and expected.rename(name) not in expected.tied
        and not any(re.search(pattern, name) for pattern in expected.ignored)
    ]
    return CheckedWeights(source, names, unused, fused)
