"""The presets are the published models, to the last parameter."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import pytest

from edgec.models.sources.presets import PRESETS, is_moe
from edgec.models.sources.resolve import resolve
from edgec.models.weights.check import expected_tensors

# What the authors' safetensors files hold, as the hub shows it for each model.
PUBLISHED = {
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "llama-3.2-1b": 1_235_814_400,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
}
# Published rounded to the name's precision.
ROUNDED = {
    "granite-3.1-1b-a400m": 1.33e9,
    "lfm2-8b-a1b": 8.34e9,
    "qwen3-reap-15b-a3b": 16.0e9,
}


def test_table() -> None:
    assert set(PRESETS) == set(PUBLISHED) | set(ROUNDED)
    assert all(name == preset.name for name, preset in PRESETS.items())
    assert {n for n, p in PRESETS.items() if p.moe} == set(ROUNDED)
    for name, count in PUBLISHED.items():
        assert PRESETS[name].parameters == count
    for name, rounded in ROUNDED.items():
        assert math.isclose(PRESETS[name].parameters, rounded, rel_tol=0.01)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_parameters_are_those_of_the_module(name: str) -> None:
    """Counted on the module that transformers makes, on the meta device; buffers do not count."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = copy.deepcopy(dict(PRESETS[name].config))
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert type(model).__name__ == PRESETS[name].config["architectures"][0]
    assert sum(p.numel() for p in model.parameters()) == PRESETS[name].parameters


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_random_weights_fit_the_configuration(name: str) -> None:
    source = resolve(f"preset:{name}")
    shapes = {n: i.shape for n, i in source.weights.tensors().items()}
    assert shapes == expected_tensors(source.config).shapes
    stored = {n: i.count for n, i in source.weights.tensors().items()}
    biases = sum(c for n, c in stored.items() if n.endswith("expert_bias"))  # a buffer of lfm2
    assert sum(stored.values()) - biases == PRESETS[name].parameters


def test_is_moe() -> None:
    assert not is_moe({"num_local_experts": 0})
    assert not is_moe({"num_experts": None})
    assert not is_moe({"num_experts": 1})
    assert is_moe({"n_routed_experts": 64})
    assert is_moe({"num_experts": [1, 16]})


def test_table_is_frozen() -> None:
    preset = PRESETS["qwen3-0.6b"]
    with pytest.raises(TypeError):
        PRESETS["x"] = preset  # type: ignore[index]
    with pytest.raises(TypeError):
        preset.config["vocab_size"] = 3  # type: ignore[index]
    resolve("preset:llama-3.2-1b", layers=1).config.rope_parameters["factor"] = 0.0
    assert PRESETS["llama-3.2-1b"].config["rope_scaling"]["factor"] == 32.0


def test_table_needs_no_torch() -> None:
    script = (
        "import sys, edgec.models.sources.presets, edgec.models.sources.create as c;"
        "c.list_models();"
        "print(sorted({'torch', 'transformers', 'huggingface_hub', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_seed_and_layers() -> None:
    short = resolve("preset:qwen3-0.6b", layers=2, seed=7)
    assert short.revision == "seed-7"
    assert short.config.num_hidden_layers == 2
    assert short.config.layer_types == ["full_attention"] * 2
    names = set(short.weights.tensors())
    assert "model.layers.1.mlp.up_proj.weight" in names
    assert "model.layers.2.mlp.up_proj.weight" not in names
    same, other_seed, other_layers = (
        resolve("preset:qwen3-0.6b", layers=layers, seed=seed).fingerprint()
        for layers, seed in ((2, 7), (2, 8), (3, 7))
    )
    assert short.fingerprint() == same
    assert len({same, other_seed, other_layers}) == 3
