"""Output by a JSON schema outside the server. The masks themselves are in tests/server."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from edgec.errors import InputError
from edgec.runtime import Session, schema_filter


def test_only_what_the_schema_allows_is_written(make_session: Callable[..., Session]) -> None:
    session = make_session("anything")
    choices = schema_filter(session.model, {"enum": ["yes", "no"]})
    result = session.generate("Well?", token_filter=choices, max_new_tokens=16)
    assert json.loads(result.text) in ("yes", "no")
    assert result.finish_reason == "stop"


def test_the_first_byte_is_the_schemas(make_session: Callable[..., Session]) -> None:
    logits = np.zeros(make_session().model.vocab_size, np.float32)
    schema_filter(make_session().model, {"const": 7}).mask([], logits)
    assert np.flatnonzero(np.isfinite(logits)).tolist() == [ord("7")]


@pytest.mark.parametrize(
    ("schema", "message"),
    [({"type": "colour"}, "colour"), ({"enum": []}, ""), ({"pattern": "("}, "")],
)
def test_a_wrong_schema_is_an_input_error(
    make_session: Callable[..., Session], schema: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=f"^schema: .*{message}"):
        schema_filter(make_session().model, schema)
