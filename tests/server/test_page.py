"""The chat page in a headless Chromium: it works, offline, and looks as it should.

A machine without a Chromium fails here: scripts/chromium.sh installs one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.browser import Browser, find_chromium
from tests.server.conftest import Server

ANSWERED = "document.querySelectorAll('.message.assistant:not(.running)').length"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = find_chromium()
    assert program, "no Chromium: run scripts/chromium.sh"
    opened = Browser(program, tmp_path / "profile")
    yield opened
    opened.close()


def set_option(browser: Browser, name: str, value: str) -> None:
    browser.evaluate("document.getElementById('open-settings').click()")
    field = f"document.querySelector('[name={name}]')"
    browser.evaluate(f"{field}.focus()")
    browser.evaluate(f"{field}.select()")
    browser.type(value)
    browser.evaluate("document.querySelector('#settings .primary').click()")
    browser.wait("document.activeElement.id === 'input'")


def test_conversation(browser: Browser, server: Server, tmp_path: Path) -> None:
    browser.open(server.url + "/")
    browser.wait("document.getElementById('status').textContent === 'ready'")
    browser.wait("document.getElementById('model').textContent === 'bundled:tiny-dense'")
    for name, value in (("temperature", "0"), ("max_tokens", "40")):
        set_option(browser, name, value)
    browser.type("Who was Moses?")
    browser.press("Enter", 13, "\r")
    browser.wait(f"{ANSWERED} === 1")
    messages = [{"role": "user", "content": "Who was Moses?"}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 40}
    expected = server.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    shown = browser.evaluate("document.querySelector('.message.assistant .text').innerText")
    assert shown.strip() == expected.strip()
    phase = "document.querySelector('#phases .now').textContent"
    assert browser.evaluate(phase) == "inactive"
    # The follow-up says what it had not to compute.
    browser.type("And then?")
    browser.press("Enter", 13, "\r")
    browser.wait(f"{ANSWERED} === 2")
    facts = browser.evaluate("[...document.querySelectorAll('.facts')].map(x => x.innerText)")
    assert len(facts) == 2
    assert "tokens cached" in facts[1]
    browser.wait("document.getElementById('memory').textContent.endsWith('MB')")
    assert "tokens/s" in browser.evaluate("document.getElementById('speed').textContent")
    image = browser.screenshot(tmp_path / "conversation.png")
    assert len(image) > 20_000  # a blank page has 4,000 bytes
    assert not browser.problems
    assert {url.startswith(server.url) for url in browser.requested} == {True}


def test_stop_theme_and_new(browser: Browser, server: Server, tmp_path: Path) -> None:
    browser.open(server.url + "/")
    browser.wait("document.getElementById('status').textContent === 'ready'")
    browser.evaluate("Object.assign(settings, {max_tokens: '900', temperature: '2', seed: '3'})")
    browser.type("Tell me a long story")
    browser.press("Enter", 13, "\r")
    browser.wait("document.querySelector('.message.assistant .text').innerText.length > 20")
    assert browser.evaluate("document.getElementById('send').hidden")
    assert not browser.evaluate("document.getElementById('stop').hidden")
    browser.press("Escape", 27)
    browser.wait(f"{ANSWERED} === 1")
    assert "stopped" in browser.evaluate("document.querySelector('.facts').innerText")
    server.wait_metrics(decoding=0)
    background = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(background)
    browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate(background) != light
    browser.screenshot(tmp_path / "dark.png")
    browser.press("KeyN", 78, modifiers=1)  # Alt+N
    assert browser.evaluate("document.querySelectorAll('.message').length") == 0
    assert not browser.problems


def test_what_a_model_writes_is_text(browser: Browser, server: Server) -> None:
    browser.open(server.url + "/")
    hostile = "<img src=x onerror=alert(1)> `<b>` **<i>**\\n```html\\n<script>1</script>\\n```"
    browser.evaluate(f"addMessage('assistant').firstChild.append(...renderMarkup('{hostile}'))")
    text = browser.evaluate("document.querySelector('.message .text').innerText")
    assert "<img src=x onerror=alert(1)>" in text
    assert "<script>" in text
    elements = "[...document.querySelectorAll('.message .text *')].map(x => x.tagName)"
    assert set(browser.evaluate(elements)) == {"P", "CODE", "STRONG", "PRE"}


def test_errors_are_shown(browser: Browser, tool_server: Server) -> None:
    browser.open(tool_server.url + "/")
    browser.wait("document.getElementById('status').textContent === 'ready'")
    browser.type("Hello")
    browser.press("Enter", 13, "\r")
    browser.wait("document.querySelector('.error')")
    assert "API key" in browser.evaluate("document.querySelector('.error').innerText")
    assert browser.evaluate("document.getElementById('input').value") == "Hello"
    set_option(browser, "api_key", "secret")
    browser.press("Enter", 13, "\r")
    browser.wait("document.querySelectorAll('.message.assistant .facts').length === 1")
