"""Counts of operations and bytes: by hand, and against what an eager run does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from edgec.bench.costs import distinct_experts, model_shape, weight_bytes
from edgec.errors import InputError
from edgec.models.sources.presets import PRESETS

SMALL = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 256,
    "attn_implementation": "eager",
}  # fmt: skip
MLA = {
    "q_lora_rank": 48, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 24,
    "v_head_dim": 20, "head_dim": 16,
}  # fmt: skip
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "MHA": ("llama", {}),
    "GQA": ("qwen3", {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True}),
    "MLA": (
        "deepseek_v3",
        MLA
        | {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1,
           "topk_group": 1, "moe_intermediate_size": 64, "first_k_dense_replace": 1},
    ),
    "MoE": (
        "qwen3_moe",
        {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
         "num_key_value_heads": 4, "head_dim": 16, "decoder_sparse_step": 1},
    ),
    "MoE, fused": ("granitemoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
}  # fmt: skip


def test_qwen3_by_hand() -> None:
    """596 M weights and 112 KiB of f16 state for a token; 2 · 596 M operations, and attention."""
    shape = model_shape(PRESETS["qwen3-0.6b"].config)
    assert shape.weights_per_token == 596_049_920
    assert shape.state_bytes_per_token(2) == 112 * 1024
    norms = 28 * (2 * 1024 + 2 * 128) + 1024
    step = shape.call(511, 1, weight=2, state=2)
    assert step.flops == 2 * (596_049_920 - norms) + 4 * 28 * 16 * 128 * 512
    assert step.bytes == 2 * 596_049_920 + 112 * 1024 * 512
    assert step.intensity == pytest.approx(step.flops / step.bytes)


@pytest.mark.parametrize("name", [n for n, p in PRESETS.items() if "conv_L_cache" not in p.config])
def test_parameters_of_presets(name: str) -> None:
    assert model_shape(PRESETS[name].config).parameters == PRESETS[name].parameters


def test_a_prompt_in_chunks_reads_the_weights_again() -> None:
    shape = model_shape(PRESETS["qwen3-0.6b"].config)
    whole = shape.prefill(0, 512, chunk=512, weight=2, state=2)
    halves = shape.prefill(0, 512, chunk=256, weight=2, state=2)
    weights, rows = 2 * 596_049_920, 112 * 1024 * 256
    assert halves.bytes - whole.bytes == weights + rows
    assert halves.flops - whole.flops == 2 * 151_936 * 1024  # the head once more


def test_a_window_bounds_attention() -> None:
    config = {**PRESETS["llama-3.2-1b"].config, "model_type": "mistral", "sliding_window": 64}
    shape = model_shape(config)
    far, near = (shape.call(at, 1, weight=2, state=2) for at in (1000, 63))
    assert far.flops == near.flops
    assert far.bytes == pytest.approx(near.bytes, rel=1e-4)


def test_expected_experts_are_those_of_uniform_routing() -> None:
    picks = random.Random(0)
    for experts, chosen, tokens in ((32, 8, 1), (32, 8, 4), (64, 8, 16), (8, 2, 32)):
        trials = [
            len({e for _ in range(tokens) for e in picks.sample(range(experts), chosen)})
            for _ in range(4000)
        ]
        expected = distinct_experts(experts, chosen, tokens)
        assert expected == pytest.approx(sum(trials) / len(trials), rel=0.01)


def test_formats() -> None:
    assert weight_bytes("f16") == 2
    assert weight_bytes("int8") == 1 + 2 / 32
    assert weight_bytes("int4", 64) == 0.5 + 2 / 64


def test_other_layers_are_refused() -> None:
    with pytest.raises(InputError, match="lfm2_moe.*no cost formulas for its conv_L_cache"):
        model_shape(PRESETS["lfm2-8b-a1b"].config)
    with pytest.raises(InputError, match="has no 'hidden_size'"):
        model_shape({"model_type": "odd", "num_hidden_layers": 1})


class Touched(TorchDispatchMode):
    """Which elements of the parameters the operators of a run get, and state they write or read.

    An expert's matrix is a view of a parameter: what counts is where a view lies.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.parameters = {p.untyped_storage().data_ptr(): p for p in model.parameters()}
        self.spans: dict[int, set[tuple[int, int]]] = {}
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        moves = any(part in name for part in ("mm", "mul", "add", "embedding", "copy", "linear"))
        views = any(part in name for part in ("view", "transpose", "aten.t.", "select", "split"))
        if moves and not views:
            for value in args:
                self._note(value, name, args)
        return func(*args, **(kwargs or {}))

    def _note(self, value: Any, name: str, args: Any) -> None:
        if not isinstance(value, torch.Tensor):
            return
        pointer = value.untyped_storage().data_ptr()
        if pointer not in self.parameters:
            return
        if "embedding" in name:
            self.rows += args[1].numel() * value.shape[-1]
        else:
            span = (value.storage_offset(), value.numel())
            self.spans.setdefault(pointer, set()).add(span)

    def elements(self, tied: bool) -> int:
        read = sum(size for spans in self.spans.values() for _, size in spans)
        return read + (0 if tied else self.rows)


@contextmanager
def model_of(name: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    kind, extra = CONFIGS[name]
    torch.manual_seed(0)
    settings = {**SMALL, "tie_word_embeddings": False, **extra}
    config = AutoConfig.for_model(kind, **settings)
    config._experts_implementation = "eager"
    with torch.no_grad():
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        yield model, config.to_dict() | {"model_type": kind}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_operations_of_an_eager_run(name: str) -> None:
    """Within 1 %: a prompt, a follow-up and a step. Eager attention multiplies all of a block."""
    with model_of(name) as (model, config):
        shape = model_shape(config, latent=True)
        assert shape.parameters == sum(p.numel() for p in model.parameters())
        cache, start = DynamicCache(config=model.config), 0
        for tokens in (40, 16, 1):
            ids = torch.randint(0, 512, (1, tokens))
            with FlopCounterMode(display=False) as counter:
                model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            expected = shape.call(start, tokens, weight=4, state=4, causal=False).flops
            assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)
            start += tokens


@pytest.mark.parametrize("name", list(CONFIGS))
def test_bytes_of_an_eager_run(name: str) -> None:
    """Within 1 %: weights that operators get, once each, and what the cache then holds."""
    with model_of(name) as (model, config):
        shape = model_shape(config, latent=True)
        tied = bool(config["tie_word_embeddings"])
        cache, start = DynamicCache(config=model.config), 0
        for tokens in (40, 1):
            ids = torch.randint(0, 512, (1, tokens))
            with Touched(model) as touched:
                model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            # A prompt touches as many experts as it happens to, see distinct_experts.
            experts = hit_experts(model, touched) if tokens > 1 else None
            held = sum(y.keys.numel() + y.values.numel() for y in cache.layers)
            expected = shape.call(start, tokens, weight=4, state=4, experts=experts).bytes
            assert 4 * (touched.elements(tied) + held) == pytest.approx(expected, rel=0.01)
            start += tokens


def hit_experts(model: Any, touched: Touched) -> float | None:
    """Distinct experts that a layer used, on average over the layers that have some."""
    counts = [
        len(touched.spans.get(p.untyped_storage().data_ptr(), ()))
        for n, p in model.named_parameters()
        if p.dim() == 3 and n.endswith(("down_proj", "output_linear.weight"))
    ]
    return sum(counts) / len(counts) if counts else None
