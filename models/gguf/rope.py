"""How a GGUF file scales positions, as transformers' `rope_parameters`, by llama.cpp's rules."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edgec.errors import ModelError
from edgec.models.gguf.keys import ModelKeys
from edgec.models.gguf.weights import GgufFile, GgufWeights

__all__ = ["ROPE_FREQS", "rope_parameters"]

ROPE_FREQS = "rope_freqs.weight"
_REMEDY = "compile the original model with --quantize int4"


def rope_parameters(file: GgufFile, keys: ModelKeys, config: Any) -> dict[str, Any]:
    """The file's settings beside the base of the frequencies, to be added to the configuration's.

    Args:
        file: The file.
        keys: Its keys.
        config: The configuration so far.

    Raises:
        ModelError: positions are scaled in a way that the architecture or edgec does not have.
    """
    kind = keys.text("rope.scaling.type", "linear")
    # Older files have the second name. 0 stands for no scaling.
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 0.0)) or 1.0
    trained = keys.count(
        "rope.scaling.original_context_length", config.max_position_embeddings, most=1 << 31
    )
    attention = keys.positive("rope.scaling.attn_factor", 1.0)
    unused = "llama.cpp has no use for it here"
    keys.expect("rope.scaling.alpha", 0.0, unused)
    keys.expect("rope.scaling.yarn_log_multiplier", 0.0, unused)
    keys.expect("rope.scaling.yarn_beta_fast", 32.0, unused)
    keys.expect("rope.scaling.yarn_beta_slow", 1.0, unused)
    keys.expect("rope.scaling.yarn_attn_factor", 1.0, unused)
    keys.expect("rope.scaling.yarn_ext_factor", 1.0, unused)
    if "sliding_attention" not in config.rope_parameters:
        keys.expect("rope.freq_base_swa", config.rope_parameters["rope_theta"], unused)
    if kind not in ("none", "linear", "yarn") or factor < 1.0 or factor > 1e6:
        raise ModelError(
            f"{file.path}: positions are scaled by {kind} with {factor:g}, which is not imported",
            _REMEDY,
        )
    if kind != "yarn" and attention != 1.0:
        raise ModelError(
            f"{file.path}: rope.scaling.attn_factor is {attention:g} without yarn", _REMEDY
        )
    found: dict[str, Any] = {}
    if kind == "linear" and factor != 1.0:
        found = {"rope_type": "linear", "factor": factor}
    elif kind == "yarn" and factor != 1.0:
        found = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": trained,
            "attention_factor": attention * (0.1 * math.log(factor) + 1.0),
        }
    if ROPE_FREQS not in file.tensors:
        return found
    divisors = _llama3(file, config)
    if found and divisors:
        raise ModelError(f"{file.path}: {ROPE_FREQS} and {kind} both scale positions", _REMEDY)
    return found or divisors


def _llama3(file: GgufFile, config: Any) -> dict[str, Any]:
    """The parameters of the scaling by which Llama 3 divided its frequencies.

    The file has only the quotients. Those that were published are tried.
    """
    weights = GgufWeights(file, {ROPE_FREQS: ROPE_FREQS}, lambda values, _: values)
    divisors = weights.read(ROPE_FREQS).float()
    if bool((divisors == 1).all()):
        return {}
    theta = config.rope_parameters.get("full_attention", config.rope_parameters)["rope_theta"]
    whole = theta ** -(torch.arange(0, config.head_dim, 2).double() / config.head_dim)
    usual = (
        divisors.shape == whole.shape
        and 0.99 <= float(divisors.min()) <= float(divisors.max()) < math.inf
    )
    for original in (8192, 4096, 2048, 1024, 512, 256, 128) if usual else ():
        found = {
            "rope_type": "llama3",
            "factor": round(float(divisors.max()), 3),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": original,
        }
        trial = type(config).from_dict(config.to_dict())
        trial.rope_parameters = {"rope_theta": theta} | found
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](trial, torch.device("cpu"))
        if torch.allclose((whole / scaled).float(), divisors, rtol=1e-3):
            return found
    raise ModelError(f"{file.path}: {ROPE_FREQS} is not the scaling of a published Llama", _REMEDY)
