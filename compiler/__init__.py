"""Joins models and passes: options, export, stages, targets, parameters, artifact.

Importing it loads neither torch nor IREE: a mistake in the options or in a model's name is refused
before they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, get_type_hints

from edgec.options import CompileOptions, CompileRequest, flags_of

if TYPE_CHECKING:
    from edgec.artifact import Artifact
    from edgec.compiler.targets.target import Target

__all__ = ["CompileOptions", "CompileRequest", "check", "compile"]

_Keywords = ParamSpec("_Keywords")


def check(request: CompileRequest) -> tuple[Target, ...]:
    """Refuses what can be refused without torch and transformers.

    Returns:
        The targets, described.

    Raises:
        InputError: a target is unknown, or the file to start from is none.
        ModelError: there is no such model, or its GGUF header is damaged.
    """
    from edgec.compiler.dumps import starting_point
    from edgec.compiler.targets import parse_targets, split_targets
    from edgec.models.sources.resolve import check_name

    starting_point(request.start_from, list(split_targets(request.target)))
    check_name(
        request.model, revision=request.revision, offline=request.offline, token=request.token
    )
    return parse_targets(request.target)


def _with_keywords(
    request: Callable[_Keywords, CompileRequest],
) -> Callable[_Keywords, Artifact | None]:
    """`compile` with the fields of a request as its arguments, for type checkers too."""

    def compile(*arguments: _Keywords.args, **keywords: _Keywords.kwargs) -> Artifact | None:
        asked = request(*arguments, **keywords)
        targets = check(asked)
        from edgec.compiler.driver import build

        return build(asked, targets)

    hints = get_type_hints(request)
    signature = inspect.signature(request)
    parameters = [p.replace(annotation=hints[n]) for n, p in signature.parameters.items()]
    vars(compile)["__signature__"] = signature.replace(
        parameters=parameters, return_annotation="Artifact | None"
    )
    compile.__qualname__ = "compile"
    compile.__doc__ = _DOCUMENTATION.format(
        options="\n    ".join(
            f"{name}: {'False: ' * (signature.parameters[name].default is True)}{flag.help}"
            for name, (_, flag) in flags_of(CompileRequest).items()
        )
    )
    return compile


_DOCUMENTATION = """Compiles a model for one or more targets.

Args:
    {options}
    token: For gated models; by default `HF_TOKEN`.
    progress: Told about the stages.

Returns:
    The artifact, or None after `stop_after`.

Raises:
    InputError: something the user can mend; nothing was written.
    ModelError: the model is not found, damaged, or not supported.
    CompileError: a stage failed; nothing was written but the dump.
"""

compile = _with_keywords(CompileRequest)
