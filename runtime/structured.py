"""Output by a JSON schema, for sessions and engines."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from edgec.errors import EdgecError, InputError
from edgec.runtime.model import LoadedModel
from edgec.runtime.sampling import TokenFilter

__all__ = ["schema_filter"]

_NEEDED = ("llguidance", "pydantic", "starlette")


def schema_filter(model: LoadedModel, schema: dict[str, Any]) -> TokenFilter:
    """A `token_filter` that lets a model write only JSON that a schema allows.

    It is for one generation. A process beside this one follows the grammar, and ends with the
    filter; starting it takes a tenth of a second to some seconds, by the size of the vocabulary.

    Args:
        model: The loaded model, `session.model` or `engine.model`.
        schema: A JSON schema, such as `{"type": "object", "properties": {...}}`.

    Raises:
        InputError: the schema is wrong, too large, or nothing matches it.
        EdgecError: `edgec[serve]` is not installed.
        DeviceError: the process cannot be started.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise EdgecError(
            "output by a schema needs pip install 'edgec[serve]'",
            f"not installed: {', '.join(missing)}",
        )
    from edgec.runtime.server.errors import ApiError
    from edgec.runtime.server.grammar import GrammarCompiler

    compiler = GrammarCompiler(model.tokenizer, model.vocab_size, model.defaults.eos_token_id)
    try:
        return compiler.from_schema(schema)
    except ApiError as error:
        raise InputError(error.message.replace("response_format", "schema", 1)) from None
    finally:
        compiler.close()
