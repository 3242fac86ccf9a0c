"""Chat messages to a prompt, through the model's own chat template.

Templates see what transformers' `apply_chat_template` gives them: plain JSON values, the special
tokens by name, and the names that `edgec.template` has. They are rendered in a process with limits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.errors import InputError
from edgec.json_files import read_json
from edgec.runtime.rendering import TemplateFailed, TemplateProcess
from edgec.template import compile_template

if TYPE_CHECKING:
    from edgec.runtime.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Message", "TemplateFailed"]

Message = Mapping[str, Any]
"""A chat message: `role`, `content`, and whatever else the template knows."""

SECONDS = 10.0
"""How long a template may take."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Under what names messages bring their reasoning; templates read the first."""

_MARK = "EDGEC_THE_MESSAGE_GOES_ON_HERE "


class ChatTemplate:
    """A model's chat templates: one, or several by name.

    Nothing is parsed and no process runs before something is rendered: text can be completed
    whatever a template is.

    Args:
        source: The Jinja text, or texts by name: `default`, `tool_use`, ...
        special_tokens: Names and spellings that the template may use (`bos_token`, ...).
        seconds: How long one rendering may take.
    """

    def __init__(
        self,
        source: str | Mapping[str, str],
        special_tokens: Mapping[str, str],
        seconds: float = SECONDS,
    ) -> None:
        self.sources = {"default": source} if isinstance(source, str) else dict(source)
        self.special_tokens = dict(special_tokens)
        self.seconds = seconds
        self._process = TemplateProcess(self.sources)
        self._problem: InputError | None = None

    @staticmethod
    def load(folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The templates of a folder; None when the model has none.

        As in transformers, files win over the tokenizer's configuration: `chat_template.jinja` and
        `additional_chat_templates/NAME.jinja`. Those that cannot be read are an error when a chat
        is asked for.
        """
        try:
            sources = _sources(folder, tokenizer.config)
        except InputError as problem:
            broken = ChatTemplate({}, tokenizer.special_tokens)
            broken._problem = problem
            return broken
        return ChatTemplate(sources, tokenizer.special_tokens) if sources else None

    @property
    def source(self) -> str:
        """The text that is used without tools; empty when there is none."""
        return self.sources.get("default", "")

    @property
    def source_with_tools(self) -> str:
        """The text that is used with tools; empty when there is none."""
        return self.sources.get("tool_use", self.source)

    def render(
        self,
        messages: Sequence[Message],
        /,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool | str = False,
        chat_template: str | None = None,
        **variables: Any,
    ) -> str:
        """The prompt for `messages`.

        Args:
            messages: Keys that are None are left out. `reasoning` and `thinking` are given as
                `reasoning_content` too.
            add_generation_prompt: End with the beginning of the assistant's turn. Not where the
                last message is continued.
            continue_final_message: End within the last message, so that the model goes on with it;
                the name of a field if that is not `content`.
            chat_template: The name of one of several; by default `tool_use`, if there is one and
                `tools` are given, or else `default`.
            variables: More for the template, such as `tools` or `enable_thinking`.

        Raises:
            InputError: a message is not an object with a role, is not plain JSON, or the
                template refuses (alternating roles, unknown fields, ...), fails or takes too long.
        """
        name = self._name(chat_template, variables.get("tools") is not None)
        prompt = add_generation_prompt and not continue_final_message
        values = {"tools": None, "documents": None, **self.special_tokens, **variables}
        values["add_generation_prompt"] = prompt
        chat = _checked(messages, values)
        final = None
        try:
            if continue_final_message:
                field = continue_final_message if continue_final_message is not True else "content"
                chat[-1] = json.loads(json.dumps(chat[-1]))  # a copy, whose text gets a mark
                final = _mark(chat[-1], field, self.sources[name])
            plain = json.dumps({**values, "messages": chat})
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"chat messages must be plain JSON: {error}") from None
        text = self._process.render(name, plain, self.seconds)
        return text if final is None else _up_to_mark(text, final)

    def check(self) -> None:
        """Parses all templates, here and now.

        Raises:
            InputError: one cannot be read, or does not parse.
        """
        if self._problem is not None:
            raise self._problem
        for source in self.sources.values():
            compile_template(source)

    def start(self) -> None:
        """Starts the process, so that the first rendering need not wait for it."""
        if self._problem is None:
            self._process.start()

    def close(self) -> None:
        """Ends the process, if one runs. A later rendering starts another."""
        self._process.close()

    def _name(self, asked: str | None, tools: bool) -> str:
        if self._problem is not None:
            raise InputError(self._problem.what, self._problem.remedy)
        if asked is not None and not isinstance(asked, str):
            raise InputError("chat_template: must be the name of one of the model's templates")
        name = asked or ("tool_use" if tools and "tool_use" in self.sources else "default")
        if name not in self.sources:
            known = ", ".join(sorted(self.sources))
            raise InputError(
                f"this model has no chat template {name[:50]!r}",
                f"choose one with chat_template: there are {known}",
            )
        return name


def _sources(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name.

    Raises:
        InputError: a file is not text, or a template is not.
    """
    files = {p.stem: p for p in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        files["default"] = folder / "chat_template.jinja"
    if files:
        return {name: _read(path) for name, path in files.items()}
    found = config.get("chat_template")
    older = folder / "chat_template.json"
    if found is None and older.is_file():
        try:
            found = read_json(older)["chat_template"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InputError(f"{older}: cannot be read: {error}", "correct it") from None
    if found is None:
        return {}
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        pairs = [(each.get("name"), each.get("template")) for each in found]
    else:
        pairs = list(found.items()) if isinstance(found, dict) else [("default", found)]
    if not all(isinstance(part, str) for pair in pairs for part in pair):
        raise InputError(
            "the model's chat_template in tokenizer_config.json is neither text nor a list of "
            "texts with names",
            "give the prompt as text, or correct it and compile again",
        )
    return dict(pairs)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}", "give the prompt as text") from None


def _checked(messages: Sequence[Message], variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages as templates see them."""
    if "messages" in variables:
        raise InputError("chat_template_kwargs: messages is not for it")
    if not messages:
        raise InputError("no chat messages", "give at least one")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(f"message {number}: must be an object with a role and content")
    documents = variables["documents"]
    if documents is not None and not (
        isinstance(documents, list | tuple) and all(isinstance(each, dict) for each in documents)
    ):
        raise InputError("documents: must be a list of objects with a title and a text")
    return [_for_template(message) for message in messages]


def _for_template(message: Message) -> dict[str, Any]:
    """A message as transformers hands it on: without what is None, its reasoning under each name
    that templates read."""
    kept = {key: value for key, value in message.items() if value is not None}
    reasoning = next((kept[name] for name in _REASONING if name in kept), None)
    if reasoning is None:
        return kept
    return {"thinking": reasoning, **kept, "reasoning_content": reasoning}


def _mark(message: dict[str, Any], field: Any, source: str) -> str:
    """Puts a mark behind a message, whose text is returned."""
    if not isinstance(field, str):
        raise InputError("continue_final_message: must be true, or the name of a field")
    final = message.get(field)
    fields = [field]
    if field in _REASONING:
        fields = [name for name in _REASONING if message.get(name) == final]
    if not any(name in source for name in fields):
        raise InputError(f"continue_final_message: the chat template reads no {field!r}")
    if isinstance(final, str):
        for name in fields:
            message[name] = final + _MARK
        return final
    blocks = final if isinstance(final, list) else []
    for block in reversed(blocks):
        if isinstance(block, dict) and isinstance(block.get("text"), str):
            text: str = block["text"]
            block["text"] = text + _MARK
            return text
    raise InputError(f"continue_final_message: the last message has no text in {field!r}")


def _up_to_mark(text: str, final: str) -> str:
    at = text.rfind(_MARK.strip())
    if at < 0 or final.strip() not in text:
        raise InputError("continue_final_message: the chat template changes the last message")
    # A template that trims messages has trimmed the mark: then the text before goes trimmed too.
    return text[:at] if text.startswith(_MARK, at) else text[:at].rstrip()
