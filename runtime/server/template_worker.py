"""The process that renders chat templates: `python -m edgec.runtime.server.template_worker`.

It reads JSON lines: first the template, the special tokens and a limit of memory in bytes, then
messages and variables. To each it answers with a line: `{"text"}`, or `{"refused"}` when the
template refuses the messages, or `{"failed"}` when it did something else.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

from edgec.errors import InputError
from edgec.runtime.chat import ChatTemplate

__all__ = ["main"]


def main() -> None:
    """Answers until its input ends."""
    template: ChatTemplate | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if template is None:
            limit = request["memory"]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            template = ChatTemplate(request["source"], request["special_tokens"])
        else:
            print(json.dumps(_render(template, request)), flush=True)


def _render(template: ChatTemplate, request: dict[str, Any]) -> dict[str, str]:
    try:
        return {"text": template.render(request["messages"], **request["variables"])}
    except InputError as error:
        return {"refused": error.what}
    except Exception as error:  # also MemoryError and RecursionError
        return {"failed": type(error).__name__}


if __name__ == "__main__":
    main()
