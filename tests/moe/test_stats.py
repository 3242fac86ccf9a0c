"""The load of each expert, as the program counts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.moe.test_bundled import eager, folder
from transformers.models.granitemoe.modeling_granitemoe import GraniteMoeTopKRouter

import edgec
from edgec.artifact import Artifact
from edgec.cli.experts import histogram
from edgec.errors import InputError

__all__ = ["eager", "folder"]


@pytest.fixture(scope="module")
def counting(compile_once: Callable[..., Artifact]) -> Artifact:
    return compile_once(
        "tiny-moe-stats", "bundled:tiny-moe", expert_stats=True, ctx_size=64, chunk_size=64
    )


def test_counts_are_those_of_eager(counting: Artifact, eager: Any) -> None:
    """33 tokens, padded to 64: padding counts nowhere. Then three steps."""
    chosen: list[Any] = []
    for module in eager.modules():
        if isinstance(module, GraniteMoeTopKRouter):
            module.register_forward_hook(lambda _, __, result: chosen.append(result))
    ids = torch.randint(0, 2000, (36,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        eager(torch.tensor([ids]))
    session = edgec.Session(counting)
    session.prefill(ids[:33])
    assert [int(c.sum()) for c in session.sequence.expert_counts()] == [66] * 4
    for token in ids[33:]:
        session.decode(token)
    wanted = [indices.reshape(-1).numpy() for _, _, indices in chosen]
    for found, indices in zip(session.sequence.expert_counts(), wanted, strict=True):
        assert np.array_equal(found, np.bincount(indices, minlength=8))
    session.reset()
    assert not any(c.any() for c in session.sequence.expert_counts())


def test_work_for_a_true_token_does_not_depend_on_padding(counting: Artifact) -> None:
    """Both prompts run 64 rows; the program routes two for each true token, none for padding."""
    session = edgec.Session(counting)
    ids = torch.randint(0, 2000, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    for length in (33, 64):
        session.reset()
        session.prefill(ids[:length])
        assert [int(c.sum()) for c in session.sequence.expert_counts()] == [2 * length] * 4


def test_shown(counting: Artifact, tiny_moe_artifact: Artifact, run_edgec: Any) -> None:
    flags = ("-p", "In the", "-n", "4", "--temperature", "0", "--stats", "experts")
    done = run_edgec("run", counting.path, *flags)
    assert done.returncode == 0 and done.stdout.strip()
    rows = done.stderr.splitlines()[-4:]
    assert [row.split()[0] for row in rows] == ["0", "1", "2", "3"]
    refused = run_edgec("run", tiny_moe_artifact.path, *flags)
    assert refused.returncode == 2 and "compile it with --expert-stats" in refused.stderr


def test_histogram() -> None:
    assert histogram([0, 1, 8, 4]) == " ▁█▄"
    assert len(histogram(list(range(128)))) == 64


def test_one_sequence_at_a_time() -> None:
    with pytest.raises(InputError, match="drop --batch"):
        edgec.compile("bundled:tiny-moe", expert_stats=True, batch=(1, 4))
