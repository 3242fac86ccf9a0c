"""From a configuration to a HF model on the meta device with the plug points installed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import torch
from torch import nn
from transformers import AutoModelForCausalLM, initialization

from edgec.errors import ModelError
from edgec.models.call import call, place
from edgec.models.plugs import attention, experts
from edgec.models.plugs.discovery import Discovery
from edgec.models.plugs.linear import QuantizedMatrix, narrow_weights
from edgec.models.plugs.rotary import add_long_frequencies
from edgec.models.plugs.state import SequenceState
from edgec.models.probe import check_native_attention
from edgec.models.weights.check import ExpectedTensors, tensors_of, untied_tensors
from edgec.models.weights.source import WeightSource
from edgec.weight_formats import WeightFormat

__all__ = ["LoadedModel", "load"]

_log = logging.getLogger("edgec.models")

_KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
_NATIVE_ATTENTION = "eager"
"""transformers' name for a family's own attention code."""
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for export.

    Attributes:
        module: HF's own module; parameters on the meta device, narrowed to the chosen type.
        buffers: The true values of its buffers (rotary frequencies and the like), by name.
        parameters: Name to parameter; a tied parameter is there once, under its first name.
        tied: Other name to first name of tied parameters.
        discovery: What each layer keeps, and the masks it asks for.
        expected: What a checkpoint must have; the shapes are those before quantisation.
        quantized: The matrices that are stored as integers and scales, by parameter name.
        rope_switches: Lengths, rising, past each of which positions are encoded otherwise.
    """

    module: nn.Module
    buffers: dict[str, torch.Tensor]
    parameters: dict[str, nn.Parameter]
    tied: dict[str, str]
    discovery: Discovery
    expected: ExpectedTensors
    quantized: dict[str, QuantizedMatrix]
    rope_switches: tuple[int, ...] = ()

    @property
    def parameter_count(self) -> int:
        """Weights of the model, however they are stored; a tied one counts once."""
        return sum(self.weight_count(name) for name in self.parameters)

    def weight_count(self, name: str) -> int:
        """Weights that a parameter stands for: of scales none, of a packed matrix all of it."""
        if name in self.quantized:
            return self.quantized[name].count
        parameter = self.parameters[name]
        scales = any(matrix.scales is parameter for matrix in self.quantized.values())
        return 0 if scales else parameter.numel()


# Found by `edgec models --coverage`; of each, the same operations in torch are right.
_WRONG = {
    "dots3_note": "compiled, the logits of a decode step are off by 0.7 of their range",
    "dots3_note_text": "compiled, the logits of a decode step are off by 0.7 of their range",
    "inkling_text": "compiled, the logits of a prompt are off by 2e-3 of their range",
}
_UNEXPLAINED = "not supported until the cause is found"


def load(
    config: Any,
    dtype: str,
    weight_format: WeightFormat | None = None,
    *,
    embeddings: WeightFormat | Literal["same"] | None = "same",
    stored: Mapping[str, WeightFormat] | None = None,
    weights: WeightSource | None = None,
    expert_stats: bool = False,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Builds the model of a HF configuration without weights and finds out what state it keeps.

    Args:
        config: A transformers configuration.
        dtype: f32, f16 or bf16, for matrices that are not quantised.
        weight_format: How matrices are quantised; None: they are not.
        embeddings: The format of embedding tables and `lm_head`, where it is another.
        stored: Matrices that the checkpoint has as integers already, by its names: they keep that
            format.
        weights: The checkpoint; parameters that are tied by the configuration, but have values of
            their own there, are not tied.
        expert_stats: Whether the state counts the tokens of each expert.
        trust_remote_code: Whether modelling code that came with the model may run.

    Raises:
        InputError: the group size does not divide a matrix.
        ModelError: the architecture needs something that edgec does not support; the message
            names it.
    """
    attention.install()
    experts.install()
    experts.check_config(config)
    if wrong := _WRONG.get(config.model_type):
        raise ModelError(f"model type '{config.model_type}': {wrong}", _UNEXPLAINED)
    given = (
        config,
        dtype,
        weight_format,
        embeddings,
        stored or {},
        weights,
        expert_stats,
        trust_remote_code,
    )
    try:
        return _load(*given, native_attention=False)
    except ModelError as refused:
        try:
            return _load(*given, native_attention=True)
        except ModelError as error:
            # Where edgec's attention is not taken, what is wrong with the model's own says more.
            raise (error if refused.__cause__ else refused) from None


def _load(
    config: Any,
    dtype: str,
    weight_format: WeightFormat | None,
    embeddings: WeightFormat | Literal["same"] | None,
    stored: Mapping[str, WeightFormat],
    weights: WeightSource | None,
    expert_stats: bool,
    trust_remote_code: bool,
    native_attention: bool,
) -> LoadedModel:
    """`load`; with `native_attention` the model's own code attends (see `Discovery`)."""
    implementation = _NATIVE_ATTENTION if native_attention else attention.IMPLEMENTATION
    try:
        module = _without_weights(copy.deepcopy(config), implementation, trust_remote_code)
    except Exception as error:
        raise (_unbuildable if native_attention else _unsupported)(config, error) from error
    if native_attention:
        check_native_attention(config, trust_remote_code=trust_remote_code)
    expected = tensors_of(module)
    if weights is not None and (separate := untied_tensors(expected, weights)):
        _untie(module, separate, quiet=native_attention)
        expected = tensors_of(module)
    own: dict[str, WeightFormat | None] = {}
    if embeddings != "same":
        own = dict.fromkeys(_embeddings(module), embeddings)
    kept = {expected.rename(name): format for name, format in stored.items()}
    for alias, name in expected.tied.items():
        for one, other in ((alias, name), (name, alias)):
            if one in kept:
                kept.setdefault(other, kept[one])
    quantized = narrow_weights(module, DTYPES[dtype], weight_format, own | kept)
    quantized |= experts.narrow_experts(module, DTYPES[dtype], weight_format)
    switches = add_long_frequencies(module)
    buffers = dict(module.named_buffers(remove_duplicate=False))
    for name, buffer in buffers.items():
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, buffer.to("meta"))
    first: dict[int, str] = {}
    parameters: dict[str, nn.Parameter] = {}
    tied: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            tied[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
            parameters[name] = parameter
    discovery = _discover(module, config, native_attention, expert_stats)
    return LoadedModel(module, buffers, parameters, tied, discovery, expected, quantized, switches)


def _untie(module: nn.Module, names: list[str], quiet: bool) -> None:
    """Gives tied parameters a place of their own."""
    tied: Any = module.all_tied_weights_keys
    for name in names:
        other = tied.pop(name)
        if not quiet:
            _log.warning(
                "weights: %s is read from the checkpoint, where it differs from %s; "
                "tie_word_embeddings in config.json says they are one",
                name,
                other,
            )
        parent, _, leaf = name.rpartition(".")
        owner = module.get_submodule(parent)
        setattr(owner, leaf, nn.Parameter(torch.empty_like(getattr(owner, leaf)), False))


def _embeddings(module: nn.Module) -> list[str]:
    """The parameters that are embedding tables, or the matrix that gives the logits."""
    output = module.get_output_embeddings()  # type: ignore[operator]
    return [
        f"{name}.weight"
        for name, part in module.named_modules()
        if part is output or type(part) is nn.Embedding
    ]


def _without_weights(config: Any, implementation: str, trust_remote_code: bool) -> nn.Module:
    """The HF module with parameters on the meta device and buffers computed for real."""
    with _meta_parameters(), initialization.no_init_weights(), torch.device("cpu"):
        module: nn.Module = AutoModelForCausalLM.from_config(
            config,
            attn_implementation=implementation,
            experts_implementation=experts.IMPLEMENTATION,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
        )
    module.tie_weights()  # type: ignore[operator]
    return module.eval().requires_grad_(False)


@contextmanager
def _meta_parameters() -> Iterator[None]:
    """Parameters move to the meta device as they are registered; buffers stay.

    Under `torch.device("meta")` buffers would be lost, and HF computes them in constructors.
    """
    register = nn.Module.register_parameter

    def register_on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=False)
        register(self, name, param)

    with mock.patch.object(nn.Module, "register_parameter", register_on_meta):
        yield


def _discover(
    module: nn.Module, config: Any, native_attention: bool, count_experts: bool
) -> Discovery:
    """Runs the model on the meta device, and notes the layers' state and the masks.

    Once to see what it keeps, and once more, a single token on that state, to see that every
    buffer is updated by functions that edgec knows.
    """
    discovery = Discovery(native_attention=native_attention, count_experts=count_experts)
    start = torch.zeros((), dtype=torch.int64, device="meta")
    try:
        length = torch.full((), 32, dtype=torch.int64, device="meta")
        fresh = SequenceState(start, 64, discovery, length=length)
        logits = call(module, *_tokens(32), fresh)
        if not discovery.state:
            raise ModelError("it keeps no state that edgec knows")
        buffers = {name: kept.zeros(64, "meta") for name, kept in discovery.state.items()}
        call(module, *_tokens(1), SequenceState(start, 64, discovery, buffers))
    except ModelError as error:
        raise ModelError(f"model type '{config.model_type}': {error.what}", error.remedy) from None
    except Exception as error:
        raise _unsupported(config, error) from error
    discovery.vocab_size = logits.shape[-1]
    return discovery


def _tokens(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    positions = torch.arange(count, device="meta")[None]
    return torch.zeros(1, count, dtype=torch.int32, device="meta"), positions


def _unbuildable(config: Any, error: Exception) -> ModelError:
    """Says that transformers cannot make the module, whoever attends in it."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ModelError(
        f"configuration of '{config.model_type}': transformers cannot build it: {reason}",
        "check config.json",
    )


def _unsupported(config: Any, error: Exception) -> ModelError:
    """Says of a failure within HF's code what it most likely means."""
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS)
    first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    reason = f"its modelling code does not take edgec's plug points ({type(error).__name__}: "
    reason += f"{first}){place(error)}"
    if kinds:
        reason += f"; it has layers of the kind {', '.join(kinds)}"
    return ModelError(f"model type '{config.model_type}' is not supported yet: {reason}")
