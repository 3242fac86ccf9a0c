"""Chat templates as transformers renders them: jinja in a sandbox, with the same names in it.

Templates are files of strangers: they see plain JSON values only and cannot reach Python. They can
loop for ever or fill the memory, so the runtime renders in a process with limits
(`edgec.template_worker`).
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edgec.errors import InputError

if TYPE_CHECKING:
    import jinja2
    from jinja2.parser import Parser

__all__ = ["compile_template", "render_template"]


def compile_template(source: str) -> jinja2.Template:
    """The template of a Jinja text.

    Raises:
        InputError: the text does not parse.
    """
    try:
        return _environment().from_string(source)
    except Exception as error:  # also those of Python's own compiler
        reason = str(error) or type(error).__name__
        raise InputError(f"the chat template does not parse: {reason}") from None


def render_template(template: jinja2.Template, values: dict[str, Any]) -> str:
    """The text for `values`, which are plain JSON.

    Raises:
        InputError: the template refuses them: roles that do not alternate, a field that is not
            there, ...
        Exception: it failed otherwise.
    """
    import jinja2

    try:
        return template.render(values)
    except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
        raise InputError(f"the chat template refused the messages: {error}") from None


def _environment() -> jinja2.Environment:
    import jinja2
    import jinja2.compiler
    import jinja2.ext
    import jinja2.utils
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """Lets `{% generation %}…{% endgeneration %}` through; it marks text for training only.

        A block has a scope of its own: what is set in it ends with it.
        """

        tags = {"generation"}  # noqa: RUF012 -- jinja declares it on the instance

        def parse(self, parser: Parser) -> jinja2.nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body)
            return call.set_lineno(line)

        def _text(self, caller: Any) -> str:
            text: str = caller()
            return text

    class Namespace(jinja2.utils.Namespace):
        """Takes no names that begin with an underscore."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, *others = args
            attributes = dict(*others, **kwargs)
            for name in attributes:
                _check_name(name)
            jinja2.utils.Namespace.__init__(self, attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_name(name)
            super().__setitem__(name, value)

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
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = Namespace
    return environment


class _Dict:
    """Makes dictionaries; the class itself would have more to offer."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        from jinja2.exceptions import SecurityError

        raise SecurityError(f"a namespace takes no name that begins with an underscore: {name!r}")


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
