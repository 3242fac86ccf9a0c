"""Chat messages to a prompt, through the model's own Jinja template, in a sandbox.

Templates are files of strangers: they see plain JSON values only and cannot reach Python. The
names that they may use (`raise_exception`, `strftime_now`, `tojson`, loop controls, the
`generation` tag) are those that transformers gives them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.errors import InputError

if TYPE_CHECKING:
    import jinja2
    from jinja2.parser import Parser

    from edgec.runtime.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Message"]

Message = Mapping[str, Any]
"""A chat message: `role`, `content`, and whatever else the template knows."""


class ChatTemplate:
    """A model's chat template.

    Args:
        source: The Jinja text.
        special_tokens: Names and spellings that the template may use (`bos_token`, ...).

    Raises:
        InputError: the template does not parse.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        import jinja2

        self.source = source
        self.special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise InputError(f"the chat template does not parse: {error}") from None

    @staticmethod
    def load(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The template of an artifact: `chat_template.jinja`, or else the one in the tokenizer's
        configuration; None when the model has none."""
        path = folder / "chat_template.jinja"
        source: Any = tokenizer.config.get("chat_template")
        if path.is_file():
            source = path.read_text(encoding="utf-8")
        elif isinstance(source, list):  # several, by name
            source = next((t["template"] for t in source if t.get("name") == "default"), None)
        return None if source is None else ChatTemplate(source, tokenizer.special_tokens)

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The prompt for `messages`.

        Args:
            add_generation_prompt: End with the beginning of the assistant's turn.
            variables: More for the template, such as `tools` or `enable_thinking`.

        Raises:
            InputError: a message is not an object with a role, is not plain JSON, or the
                template refuses (alternating roles, unknown fields, ...).
        """
        import jinja2

        for number, message in enumerate(messages):
            if not isinstance(message.get("role"), str):
                raise InputError(f"message {number}: must be an object with a role and content")
        try:
            values = json.loads(json.dumps({"messages": [dict(m) for m in messages], **variables}))
        except (TypeError, ValueError) as error:
            raise InputError(f"chat messages must be plain JSON: {error}") from None
        values = {**self.special_tokens, "add_generation_prompt": add_generation_prompt, **values}
        try:
            return self._template.render(values)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise InputError(f"the chat template refused the messages: {error}") from None


def _environment() -> jinja2.Environment:
    import jinja2
    import jinja2.compiler
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """Lets `{% generation %}…{% endgeneration %}` through; it marks text for training only."""

        tags = {"generation"}  # noqa: RUF012 -- jinja declares it on the instance

        def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class NothingComputed(jinja2.compiler.CodeGenerator):
        """Leaves constants such as `'x' * 10**10`, which jinja would compute on parsing."""

        def _output_child_to_const(self, node: Any, frame: Any, finalize: Any) -> str:
            if not isinstance(node, jinja2.nodes.TemplateData):
                raise jinja2.nodes.Impossible
            return super()._output_child_to_const(node, frame, finalize)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        extensions=[Generation, jinja2.ext.loopcontrols],
    )
    environment.code_generator_class = NothingComputed
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which models do not read."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
