"""A model that transformers does not have, written to its interfaces, as it lies beside weights.

Attention and feed-forward run side by side on one norm's output, positions rotate interleaved
pairs, and the whole block is scaled by what the model learned for it.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class ParallelConfig(PreTrainedConfig):
    model_type = "parallel"
    vocab_size: int = 288
    hidden_size: int = 64
    intermediate_size: int = 96
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 16
    max_position_embeddings: int = 256
    rope_theta: float = 10000.0


def attend(module, query, key, value, mask, scaling, dropout=0.0, **kwargs):
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def rotated(x, angles):
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class ParallelBlock(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        wide = config.num_attention_heads * self.head_dim
        self.norm = nn.LayerNorm(config.hidden_size)
        self.qkv = nn.Linear(config.hidden_size, heads * self.head_dim)
        self.out = nn.Linear(wide, config.hidden_size, bias=False)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.scale = nn.Parameter(torch.ones(config.hidden_size))

    def forward(self, hidden_states, angles, attention_mask, past_key_values, **kwargs):
        x = self.norm(hidden_states)
        q, kv = self.config.num_attention_heads, self.config.num_key_value_heads
        parts = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        query, key, value = parts.split((q, kv, kv), dim=1)
        query, key = rotated(query, angles), rotated(key, angles)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, attend)
        attended, _ = attention(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        both = self.out(attended.flatten(2)) + self.down(nn.functional.gelu(self.up(x)))
        return hidden_states + self.scale * both


class ParallelPreTrainedModel(PreTrainedModel):
    config_class = ParallelConfig
    base_model_prefix = "model"
    _supports_attention_backend = True
    _supports_sdpa = True


class ParallelModel(ParallelPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            ParallelBlock(config, i) for i in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        steps = torch.arange(0, config.head_dim, 2) / config.head_dim
        self.register_buffer("frequencies", config.rope_theta**-steps, persistent=False)
        self.post_init()

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, past_key_values=None,
        use_cache=None, **kwargs,
    ):  # fmt: skip
        hidden_states = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(input_ids.shape[1], device=input_ids.device) + past)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        angles = position_ids[..., None].float() * self.frequencies
        for layer in self.layers:
            hidden_states = layer(hidden_states, angles, mask, past_key_values, **kwargs)
        return self.norm(hidden_states), past_key_values


class ParallelForCausalLM(ParallelPreTrainedModel, GenerationMixin):
    def __init__(self, config):
        super().__init__(config)
        self.model = ParallelModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None,
        use_cache=None, logits_to_keep=0, **kwargs,
    ):  # fmt: skip
        hidden_states, cache = self.model(
            input_ids, attention_mask, position_ids, past_key_values, use_cache, **kwargs
        )
        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(
            logits=self.lm_head(hidden_states[:, rows]), past_key_values=cache
        )
