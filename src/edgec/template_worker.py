"""The process that renders chat templates: `python -m edgec.template_worker`.

It reads JSON lines. The first has the templates by name and a limit of memory in bytes; it is
answered with `{}` once the limit holds. Each further one names a template, has its variables and
the seconds it may take, and is answered with `{"text"}`, or with `{"refused"}` when the template
does not parse or refuses, or with `{"failed"}` when it does something else.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

from edgec.errors import InputError
from edgec.template import compile_template, render_template

if TYPE_CHECKING:
    import jinja2

__all__ = ["main"]


def main() -> None:
    """Answers until its input ends."""
    hello = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_AS, (hello["memory"], hello["memory"]))
    compiled: dict[str, jinja2.Template] = {}
    _say({})
    for line in sys.stdin:
        _say(_answer(hello["templates"], compiled, line))


def _answer(
    templates: dict[str, str], compiled: dict[str, jinja2.Template], line: str
) -> dict[str, str]:
    try:
        request = json.loads(line)
        # Who asks ends a process that is late. This is for when nobody is left who could.
        signal.alarm(int(request["seconds"]) + 5)
        name = request["template"]
        if name not in compiled:
            compiled[name] = compile_template(templates[name])
        return {"text": render_template(compiled[name], request["variables"])}
    except InputError as error:
        return {"refused": error.what}
    except Exception as error:  # also MemoryError and RecursionError
        return {"failed": type(error).__name__}
    finally:
        signal.alarm(0)


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
