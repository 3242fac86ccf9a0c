"""One decode step of several sequences routes each one's token for itself."""

from __future__ import annotations

from typing import Any

from edgec.artifact import Artifact
from edgec.runtime import Engine, Session

PROMPTS = ("In the beginning", "And God said", "Moses", "The king of Israel")


def test_sequences_at_once_are_as_each_alone(tiny_moe_artifact: Artifact) -> None:
    session = Session(tiny_moe_artifact)
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0, "ignore_eos": True}
    alone = [session.generate(prompt, **options).tokens for prompt in PROMPTS]
    with Engine(session.model) as engine:
        requests = [engine.submit(prompt, **options) for prompt in PROMPTS]
        assert [request.result(60).tokens for request in requests] == alone
        stats = engine.stats()
    assert stats.decode_calls < stats.decode_tokens
