"""What a miniature keeps of a model, and what is found out with it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from edgec.errors import ModelError
from edgec.models.load import load
from edgec.models.plugs.positions import PositionRanges
from edgec.models.tiny import shrunk, tiny_config


def test_a_miniature_keeps_what_is_no_size() -> None:
    config = AutoConfig.for_model("falcon", alibi=True, layer_norm_epsilon=0.5, bias=True)
    small = shrunk(config)
    assert (small.alibi, small.layer_norm_epsilon, small.bias) == (True, 0.5, True)
    assert small.hidden_size == 64


def test_an_indexer_keeps_a_row_for_each_position() -> None:
    """Attention to chosen positions: a miniature was right, or this would be refused."""
    config = tiny_config("deepseek_v32")
    discovery = load(config, "f32").discovery
    assert discovery.native_attention
    assert discovery.state["layers.0.indexer"].shape == (1, config.index_head_dim)


def test_a_refusal_names_family_and_layer() -> None:
    with pytest.raises(ModelError, match=r"'deepseek_v4'.*layer \d+ keeps a state of its own"):
        load(tiny_config("deepseek_v4"), "f32")


def test_positions_are_bounded_without_being_read() -> None:
    """`max(0, known - position)`, where the answer is the same for all positions."""
    start = torch.zeros((), dtype=torch.int64, device="meta")
    with PositionRanges(start, 5, 64):
        assert max(0, 1 - (5 + start)) == 0
        assert torch.clamp(1 - (5 + start), min=0) == 0
        with pytest.raises(RuntimeError):
            max(0, 9 - (5 + start))


def test_what_comes_out_wrong_is_refused() -> None:
    with pytest.raises(ModelError, match="'dots3_note_text': compiled, the logits of a decode"):
        load(tiny_config("dots3_note_text"), "f32")
