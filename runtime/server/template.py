"""The chat template of a served model: renderings wait for each other outside of the threads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from edgec.errors import InputError
from edgec.runtime.chat import ChatTemplate, TemplateFailed
from edgec.runtime.server.errors import ApiError

__all__ = ["TemplateRenderer"]


class TemplateRenderer:
    """A chat template with limits.

    Args:
        seconds: How long one rendering may take.
    """

    def __init__(self, template: ChatTemplate, seconds: float) -> None:
        template.seconds = seconds
        self._template = template
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
                return await run_in_threadpool(lambda: self._template.render(messages, **variables))
            except TemplateFailed as error:
                raise ApiError(500, error.what, param="messages", code="template_failed") from None
            except InputError as error:
                raise ApiError(
                    400, str(error), param="messages", code="chat_template_refused"
                ) from None

    async def start(self) -> None:
        """Starts the process, so that the first request need not wait for it."""
        async with self._turn:
            await run_in_threadpool(self._template.start)
