"""Families whose methods are replaced during a call, in torch alone, against transformers."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgec.compiler.quantization import describe_quantization
from edgec.models import hooks
from edgec.models.load import load
from edgec.models.plugs import attention, experts
from edgec.models.probe import worst_error
from edgec.models.tiny import tiny_config, tiny_model
from edgec.weight_formats import WeightFormat

# Whether their own code attends.
FAMILIES = {
    "dbrx": False,
    "gpt_neo": True,
    "jetmoe": True,
    "longcat_flash": False,
    "minimax": False,
    "openai-gpt": False,
    "recurrent_gemma": False,
    "xmod": False,
    "zaya": False,
}


@pytest.mark.parametrize(("family", "native_attention"), FAMILIES.items())
def test_same_as_transformers(family: str, native_attention: bool) -> None:
    """Prompts, padded and not, single tokens and a follow-up over the buffers of a sequence."""
    attention.install()
    experts.install()
    config = tiny_config(family)
    reference = tiny_model(copy.deepcopy(config))
    model = AutoModelForCausalLM.from_config(
        config,
        attn_implementation="eager" if native_attention else attention.IMPLEMENTATION,
        experts_implementation=experts.IMPLEMENTATION,
        dtype=torch.float32,
    ).eval()
    model.load_state_dict(reference.state_dict())
    assert any(hooks.replaced(module) for module in model.modules())
    assert worst_error(model, reference, native_attention=native_attention) <= 1e-4


def test_every_replacement_has_a_family() -> None:
    """A class that transformers renamed would no longer be replaced, silently."""
    with torch.device("meta"):
        kinds = {
            name
            for family in FAMILIES
            for module in AutoModelForCausalLM.from_config(tiny_config(family)).modules()
            for name in hooks.names(type(module))
        }
    assert {layer for layer, _ in hooks.REPLACED} <= kinds


@pytest.mark.parametrize(("family", "kind"), [("dbrx", "experts.mlp"), ("jetmoe", "_linear")])
def test_what_is_left_of_quantisation(family: str, kind: str) -> None:
    """Experts in a form of the family's own stay floats: the manifest says which and how much."""
    model = load(tiny_config(family), "f32", WeightFormat(4, 32))
    described = describe_quantization(model, ())
    names = described["unquantized"].split(", ")
    assert names and all(kind in name for name in names)
    counted = sum(model.weight_count(name) for name in names)
    assert int(described["unquantized_bytes"]) == 4 * counted > model.weight_count(names[0])
