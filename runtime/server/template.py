"""Renders chat templates in a process of its own, which can be stopped.

Templates come with models and are programs: jinja's sandbox keeps them from Python, but not from
looping for ever or filling the memory. A thread that does so cannot be stopped, a process can.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from edgec.runtime.chat import ChatTemplate
from edgec.runtime.server.errors import ApiError

__all__ = ["TemplateRenderer"]

MEMORY = 512 * 2**20
"""Bytes of address space of the process."""
LONGEST = 16 * 2**20
"""Bytes of the longest answer."""


class TemplateRenderer:
    """A chat template with limits. The process starts with the first use.

    Args:
        seconds: How long one rendering may take.
    """

    def __init__(self, template: ChatTemplate, seconds: float) -> None:
        self._hello = {
            "source": template.source,
            "special_tokens": template.special_tokens,
            "memory": MEMORY,
        }
        self._seconds = seconds
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def render(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> str:
        """The prompt for chat messages, see `ChatTemplate.render`.

        Raises:
            ApiError: 400 when the template refuses, 500 when it fails or takes too long.
        """
        async with self._turn:
            try:
                async with asyncio.timeout(self._seconds):
                    answer = await self._ask({"messages": messages, "variables": variables})
            except TimeoutError:
                what = f"takes longer than {self._seconds:g} s"
            except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                what = "broke its process, or gave too much text"
            except BaseException:  # the client has gone, and the answer would be taken for another
                await self.close()
                raise
            else:
                if "refused" in answer:
                    raise ApiError(
                        400, answer["refused"], param="messages", code="chat_template_refused"
                    )
                if "text" in answer:
                    return answer["text"]
                raise _failed(answer["failed"])
            await self.close()
            raise _failed(what)

    async def start(self) -> None:
        """Starts the process, so that the first request need not wait for it."""
        async with self._turn:
            await self._running()

    async def close(self) -> None:
        """Ends the process. A later rendering starts another."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "edgec.runtime.server.template_worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=LONGEST,
                start_new_session=True,  # Ctrl-C is for the server
            )
            await self._send(self._process, self._hello)
        return self._process

    async def _ask(self, request: Mapping[str, Any]) -> dict[str, str]:
        process = await self._running()
        await self._send(process, request)
        assert process.stdout is not None
        line = await process.stdout.readuntil(b"\n")
        answer: dict[str, str] = json.loads(line)
        return answer

    @staticmethod
    async def _send(process: asyncio.subprocess.Process, value: Mapping[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(value).encode() + b"\n")
        await process.stdin.drain()


def _failed(what: str) -> ApiError:
    return ApiError(
        500, f"the model's chat template failed: {what}", param="messages", code="template_failed"
    )
