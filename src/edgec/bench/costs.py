"""Operations and bytes of a model's phases, from its configuration alone.

    FLOPs = 2 · weights that multiply a token · tokens + 2 · heads · (key + value width) · Σ context
    bytes = the weights that a call touches, once + state read + state written

The head runs for one token of a prompt. Elementwise work (norms, rotation, softmax) is left out of
the FLOPs, as it is everywhere in the literature; the norms' and biases' weights are in the bytes.

What a mixture of experts reads is, for one token, the experts it is routed to. For T tokens of one
call it is the *distinct* experts that any of them is routed to. Under uniform, independent routing
of each token to k of E experts, an expert is missed by all with probability (1 − k/E)^T, so

    E[distinct] = E · (1 − (1 − k/E)^T)

(the expectation of the coupon collector's problem with groups of k). Real routing is less even,
which touches fewer experts: for a prompt this is an upper estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgec.errors import InputError

__all__ = ["Cost", "Layer", "ModelShape", "distinct_experts", "model_shape", "weight_bytes"]


@dataclass(frozen=True)
class Cost:
    """Floating-point operations, and bytes to and from memory. Adds up."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    @property
    def intensity(self) -> float:
        """Operational intensity, FLOP per byte."""
        return self.flops / self.bytes


@dataclass(frozen=True)
class Layer:
    """A decoder layer in numbers of weights and widths.

    Attributes:
        matrices: Weights that multiply every token: attention, feed-forward that is dense or
            shared, router.
        vectors: Norms and biases.
        heads: Query heads.
        key_width, value_width: Of one head, as attention multiplies them.
        state_values: Elements that the state keeps for one token.
        window: Tokens that attention looks back, or 0 for all.
        experts, chosen: Experts of the layer, and how many a token is routed to; 0 without.
        expert_weights: Of one expert.
        expansion: Weights that multiply every token of the state again in each call.
    """

    matrices: int
    vectors: int
    heads: int
    key_width: int
    value_width: int
    state_values: int
    window: int = 0
    experts: int = 0
    chosen: int = 0
    expert_weights: int = 0
    expansion: int = 0


@dataclass(frozen=True)
class ModelShape:
    """A model in numbers. `tied`: the head is the embedding table."""

    layers: tuple[Layer, ...]
    hidden: int
    vocabulary: int
    final_vectors: int
    tied: bool
    positions: int = 0

    @property
    def parameters(self) -> int:
        """All weights, tied ones once."""
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        inside = sum(y.matrices + y.vectors + y.experts * y.expert_weights for y in self.layers)
        return tables + inside + self.final_vectors + self.positions

    @property
    def weights_per_token(self) -> int:
        """Weights that one decode step reads."""
        return round(self._weights(1))

    def state_bytes_per_token(self, element: int) -> int:
        """Bytes that one token leaves in the state, `element` bytes for a number."""
        return element * sum(layer.state_values for layer in self.layers)

    def _weights(self, tokens: int, experts: float | None = None) -> float:
        """Weights that a call of `tokens` touches, with `experts` distinct ones a layer."""
        total = float(self.vocabulary * self.hidden + self.final_vectors)
        if not self.tied:
            total += tokens * self.hidden
        for layer in self.layers:
            total += layer.matrices + layer.vectors
            if layer.experts:
                hit = distinct_experts(layer.experts, layer.chosen, tokens)
                total += layer.expert_weights * (hit if experts is None else experts)
        return total

    def call(
        self,
        start: int,
        tokens: int,
        *,
        weight: float,
        state: float,
        experts: float | None = None,
        causal: bool = True,
    ) -> Cost:
        """One call of the model: `tokens` new ones after `start`.

        Args:
            start: Tokens in the state before.
            tokens: New ones; 1 is a decode step.
            weight: Bytes of a weight as it is stored, see `weight_bytes`.
            state: Bytes of an element of the state.
            experts: Distinct experts in each layer where they are known, instead of expected.
            causal: Count what a token can see; without it, as a plain implementation multiplies,
                all tokens of the call for each of them.
        """
        per_token = sum(y.matrices + y.chosen * y.expert_weights for y in self.layers)
        flops = 2.0 * per_token * tokens + 2.0 * self.vocabulary * self.hidden
        moved = weight * self._weights(tokens, experts)
        for layer in self.layers:
            flops += 2.0 * layer.expansion * start
            seen = _seen(start, tokens, layer.window, causal)
            flops += 2.0 * layer.heads * (layer.key_width + layer.value_width) * seen
            before = min(start, layer.window) if layer.window else start
            moved += state * layer.state_values * (before + tokens)
        return Cost(flops, moved)

    def prefill(self, start: int, tokens: int, *, chunk: int, weight: float, state: float) -> Cost:
        """A prompt in calls of at most `chunk` tokens, each of which reads the weights again."""
        total = Cost()
        for first in range(0, tokens, chunk):
            count = min(chunk, tokens - first)
            total += self.call(start + first, count, weight=weight, state=state)
        return total

    def decode(self, start: int, steps: int, *, weight: float, state: float) -> Cost:
        """`steps` single tokens after `start` others."""
        total = Cost()
        for step in range(steps):
            total += self.call(start + step, 1, weight=weight, state=state)
        return total


def distinct_experts(experts: int, chosen: int, tokens: int) -> float:
    """How many of `experts` are hit when each of `tokens` is routed to `chosen`, on average."""
    return experts * (1.0 - (1.0 - chosen / experts) ** tokens)


def weight_bytes(form: str, group: int | None = 32) -> float:
    """Bytes of a stored weight: f32, f16, bf16, or int8 and int4 with an f16 scale a group."""
    plain = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "int8": 1.0, "int4": 0.5}[form]
    return plain + (2.0 / group if group and form.startswith("int") else 0.0)


def _seen(start: int, tokens: int, window: int, causal: bool) -> float:
    """Σ of the context over the tokens of a call."""
    if not causal:
        return float(tokens * (start + tokens))
    if not window:
        return tokens * start + tokens * (tokens + 1) / 2
    return float(sum(min(start + i + 1, window) for i in range(tokens)))


# --- From a configuration ----------------------------------------------------------------------

_EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
# Families whose feed-forward layer is two matrices, not three, and whose layers have biases.
_PLAIN = frozenset({"gpt_neox", "gpt2", "opt", "phi", "bloom", "falcon", "codegen", "starcoder2"})
# What the formulas below do not describe.
_OTHER = ("conv_L_cache", "mamba_d_state", "ssm_cfg", "linear_num_key_heads", "state_size")


def model_shape(config: Mapping[str, Any], *, latent: bool = False) -> ModelShape:
    """Counts a decoder with the usual attention (any number of key and value heads) or MLA.

    Args:
        config: What `config.json` holds.
        latent: Of MLA, whether the state keeps the latent, of which each call makes all keys and
            values again, as transformers does. edgec keeps them expanded, and makes them once.

    Raises:
        InputError: a field that the formulas need is missing, or the layers are of another kind.
    """
    if isinstance(config.get("text_config"), Mapping):
        config = config["text_config"]
    kind = config.get("model_type", "unknown")
    if other := [name for name in _OTHER if config.get(name)]:
        raise InputError(f"model type '{kind}': no cost formulas for its {other[0]} layers")
    try:
        return _shape(config, latent)
    except KeyError as error:
        raise InputError(f"model type '{kind}': its configuration has no {error}") from None


def _shape(config: Mapping[str, Any], latent: bool) -> ModelShape:
    hidden, count = int(config["hidden_size"]), int(config["num_hidden_layers"])
    layers = []
    for index in range(count):
        matrices, vectors, attention = _attention(config, hidden)
        expansion = 0
        if latent and config.get("kv_lora_rank"):
            heads, key, value, _ = attention
            rank, rotary = int(config["kv_lora_rank"]), int(config["qk_rope_head_dim"])
            expansion = rank * heads * (key - rotary + value)
            attention = heads, key, value, rank + rotary
        ff, ff_vectors, moe = _feed_forward(config, hidden, index)
        norm = hidden * (2 if _layer_norm(config) else 1)
        layers.append(
            Layer(
                matrices + ff,
                vectors + ff_vectors + 2 * norm,
                *attention,
                _window(config, index),
                *moe,
                expansion,
            )
        )
    final = hidden * (2 if _layer_norm(config) else 1)
    tied = bool(config.get("tie_word_embeddings", True))
    return ModelShape(tuple(layers), hidden, int(config["vocab_size"]), final, tied)


def _layer_norm(config: Mapping[str, Any]) -> bool:
    return "layer_norm_eps" in config or "layer_norm_epsilon" in config


def _attention(
    config: Mapping[str, Any], hidden: int
) -> tuple[int, int, tuple[int, int, int, int]]:
    """Weights of the matrices, of vectors, and (heads, key, value, state values) of a layer."""
    heads = int(config["num_attention_heads"])
    rank = config.get("kv_lora_rank")
    if rank:
        return _latent_attention(config, hidden, heads, int(rank))
    width = int(config.get("head_dim") or hidden // heads)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    kind = config.get("model_type", "")
    matrices = 2 * hidden * heads * width + 2 * hidden * kv_heads * width
    vectors = 0
    if kind.startswith("qwen2"):
        vectors += (heads + 2 * kv_heads) * width
    elif kind in _PLAIN or config.get("attention_bias"):
        vectors += (heads + 2 * kv_heads) * width + hidden
    if kind.startswith("qwen3"):
        vectors += 2 * width
    return matrices, vectors, (heads, width, width, 2 * kv_heads * width)


def _latent_attention(
    config: Mapping[str, Any], hidden: int, heads: int, rank: int
) -> tuple[int, int, tuple[int, int, int, int]]:
    """MLA (DeepSeek-V2, arXiv:2405.04434) with keys and values made of the latent for attention."""
    rotary, plain = int(config["qk_rope_head_dim"]), int(config["qk_nope_head_dim"])
    value, query_rank = int(config["v_head_dim"]), config.get("q_lora_rank")
    key = rotary + plain
    matrices, vectors = hidden * (rank + rotary) + rank * heads * (plain + value), rank
    if query_rank:
        matrices += hidden * query_rank + query_rank * heads * key
        vectors += query_rank
    else:
        matrices += hidden * heads * key
    matrices += heads * value * hidden
    return matrices, vectors, (heads, key, value, heads * (key + value))


def _feed_forward(
    config: Mapping[str, Any], hidden: int, index: int
) -> tuple[int, int, tuple[int, int, int]]:
    """Weights of matrices that every token passes, of vectors, and (experts, chosen, weights)."""
    inner = int(config.get("intermediate_size") or 4 * hidden)
    experts = next((int(config[name]) for name in _EXPERTS if config.get(name)), 0)
    if experts < 2 or not _sparse(config, index):
        if config.get("model_type") in _PLAIN:
            return 2 * hidden * inner, hidden + inner, (0, 0, 0)
        vectors = 2 * inner + hidden if config.get("mlp_bias") else 0
        return 3 * hidden * inner, vectors, (0, 0, 0)
    width = int(config.get("moe_intermediate_size") or inner)
    matrices = hidden * experts  # the router
    shared = int(config.get("n_shared_experts") or 0) * width
    if own := int(config.get("shared_expert_intermediate_size") or 0):
        shared, matrices = own, matrices + hidden  # and its gate
    return (
        matrices + 3 * hidden * shared,
        0,
        (experts, int(config["num_experts_per_tok"]), 3 * hidden * width),
    )


def _sparse(config: Mapping[str, Any], index: int) -> bool:
    """Whether a layer of a mixture-of-experts model has experts."""
    if index < int(config.get("first_k_dense_replace") or 0):
        return False
    if index in (config.get("mlp_only_layers") or ()):
        return False
    step = int(config.get("decoder_sparse_step") or config.get("moe_layer_freq") or 1)
    return (index + 1) % step == 0 if "decoder_sparse_step" in config else index % step == 0


def _window(config: Mapping[str, Any], index: int) -> int:
    window = config.get("sliding_window")
    kinds = config.get("layer_types")
    if not window or config.get("use_sliding_window") is False:
        return 0
    if isinstance(kinds, list | tuple):
        return int(window) if kinds[index] == "sliding_attention" else 0
    return int(window) if config.get("model_type") == "mistral" else 0
