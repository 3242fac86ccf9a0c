"""Log-probabilities of given text, as evaluation harnesses ask for them, against eager."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.server.conftest import Server
from transformers import AutoModelForCausalLM

TEXT = "/v1/completions"
GIVEN = "In the beginning God created the heaven and the earth."


@pytest.fixture(scope="module")
def eager(repository: Path) -> Any:
    folder = repository / "models/bundled/tiny-dense"
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def reference(eager: Any, ids: list[int]) -> np.ndarray:
    """Log-probabilities f64[tokens, vocabulary] of transformers' eager model."""
    with torch.no_grad():
        logits = eager(torch.tensor([ids])).logits[0].double()
    scores: np.ndarray = torch.log_softmax(logits, -1).numpy()
    return scores


def tokenize(server: Server, text: str) -> list[int]:
    ids: list[int] = server.post("/tokenize", {"content": text}).json()["tokens"]
    return ids


def score(server: Server, prompt: Any, **fields: Any) -> list[dict[str, Any]]:
    body = {"prompt": prompt, "echo": True, "logprobs": 3, "max_tokens": 1, "temperature": 0}
    answer = server.post(TEXT, {**body, **fields})
    assert answer.status_code == 200, answer.text
    choices: list[dict[str, Any]] = answer.json()["choices"]
    return choices


def check(eager: Any, ids: list[int], logprobs: dict[str, Any]) -> None:
    expected = reference(eager, ids)
    values = logprobs["token_logprobs"]
    assert values[0] is logprobs["top_logprobs"][0] is None
    assert values[1 : len(ids)] == pytest.approx(
        [expected[at - 1, ids[at]] for at in range(1, len(ids))], abs=1e-3
    )
    for at in range(1, len(ids)):
        top = sorted(logprobs["top_logprobs"][at].values(), reverse=True)
        best = sorted(expected[at - 1], reverse=True)[:3]
        assert top[:2] == pytest.approx(best[:2], abs=1e-3)
        # The token itself is there, whether it is one of them or not.
        assert logprobs["top_logprobs"][at][logprobs["tokens"][at]] >= values[at] - 1e-9
    assert len({len(each) for each in logprobs.values()}) == 1


@pytest.mark.parametrize("limit", [0, 1])
def test_text(server: Server, eager: Any, limit: int) -> None:
    ids = tokenize(server, GIVEN)
    (choice,) = score(server, GIVEN, max_tokens=limit)
    logprobs = choice["logprobs"]
    check(eager, ids, logprobs)
    assert len(logprobs["tokens"]) == len(ids) + limit
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert choice["text"].startswith(GIVEN)
    for offset, token in zip(logprobs["text_offset"], logprobs["tokens"], strict=True):
        assert choice["text"][offset:].startswith(token)
    assert choice["finish_reason"] == "length"


def test_what_a_harness_computes(server: Server, eager: Any) -> None:
    """lm-eval: ids of context and continuation, `token_logprobs[len(context):-1]`."""
    pairs = [
        ("In the beginning God created the", " heaven"),
        ("And it came to", " pass"),
        ("A", " b"),
    ]
    ids = [(tokenize(server, a), tokenize(server, b)) for a, b in pairs]
    choices = score(server, [a + b for a, b in ids], logprobs=1, seed=1234)
    for (context, more), choice in zip(ids, choices, strict=True):
        expected = reference(eager, context + more)
        at = len(context)
        wanted = sum(expected[at + n - 1, token] for n, token in enumerate(more))
        assert sum(choice["logprobs"]["token_logprobs"][at:-1]) == pytest.approx(wanted, abs=1e-3)
        greedy = all(expected[at + n - 1].argmax() == token for n, token in enumerate(more))
        pieces = choice["logprobs"]["tokens"][at:-1]
        tops = choice["logprobs"]["top_logprobs"][at:-1]
        found = all(max(top, key=top.get) == piece for piece, top in zip(pieces, tops, strict=True))
        assert found == greedy


def test_one_token_more_also_where_the_text_ends(server: Server) -> None:
    """Whoever leaves out the last of the list must not lose a token of the prompt."""
    ids = tokenize(server, GIVEN)
    (choice,) = score(server, ids, logit_bias={"2047": 100})
    assert choice["finish_reason"] == "stop"
    assert len(choice["logprobs"]["token_logprobs"]) == len(ids) + 1


def test_special_tokens_of_the_prompt(server: Server, eager: Any) -> None:
    text = "<|im_start|>user\nHé😀<|im_end|>"
    for prompt in (text, tokenize(server, text)):
        (choice,) = score(server, prompt, max_tokens=0)
        assert choice["text"] == text
        tokens = choice["logprobs"]["tokens"]
        assert (tokens[0], tokens[-1]) == ("<|im_start|>", "<|im_end|>")
        check(eager, tokenize(server, text), choice["logprobs"])
        assert choice["logprobs"]["text_offset"][-1] == text.index("<|im_end|>")
        plain = server.post(TEXT, {"prompt": prompt, "echo": True, "max_tokens": 1})
        assert plain.json()["choices"][0]["text"].startswith(text)


def test_stream(server: Server) -> None:
    for limit in (0, 3):
        whole = score(server, [GIVEN, "And"], max_tokens=limit)
        body = {"prompt": [GIVEN, "And"], "echo": True, "logprobs": 3, "temperature": 0}
        answer = server.post(TEXT, {**body, "max_tokens": limit, "stream": True})
        events = [line[6:] for line in answer.text.split("\n\n") if line]
        assert events.pop() == "[DONE]"
        for index, choice in enumerate(whole):
            parts = [c for e in events for c in json.loads(e)["choices"] if c["index"] == index]
            assert "".join(part["text"] for part in parts) == choice["text"]
            assert parts[-1]["finish_reason"] == "length"
            for name, values in choice["logprobs"].items():
                found = [v for part in parts for v in (part["logprobs"] or {}).get(name, [])]
                assert found == values


def test_edges(server: Server) -> None:
    (choice,) = score(server, [5], max_tokens=0)
    assert choice["logprobs"]["token_logprobs"] == [None]
    (choice,) = score(server, "In the", max_tokens=0, logprobs=0)
    assert [len(top) for top in choice["logprobs"]["top_logprobs"][1:]] == [1] * (
        len(choice["logprobs"]["tokens"]) - 1
    )
    (choice,) = score(server, "In the", max_tokens=0, logprobs=None)
    assert (choice["text"], choice["logprobs"]) == ("In the", None)
    assert len(score(server, ["In", "the"], n=2, max_tokens=0)) == 4
    full = server.post(TEXT, {"prompt": [5] * 1025, "echo": True, "max_tokens": 0})
    assert full.json()["error"]["code"] == "context_length_exceeded"
