"""An HTTP server with OpenAI's interface around an `Engine`, and a chat page.

Needs `edgec[serve]`: fastapi, uvicorn, llguidance. Importing this package loads none of them.

Layers, from the wire in: `access` (body limit, key, log line), `app` (routes and errors),
`chat` and `completions` (a request to an answer), `prompt`, `options` and `tools` (its parts),
`stream` (server-sent events). `main` runs it all until a signal.
"""

from __future__ import annotations

__all__: list[str] = []
