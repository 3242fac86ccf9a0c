"""The chat page in a headless Chromium: it works, offline, and looks as it should.

A machine without a Chromium fails here: scripts/chromium.sh installs one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.browser import Browser, find_chromium
from tests.server.conftest import Server

ENDLESS = "requestOptions = () => ({ max_tokens: 980, ignore_eos: true, temperature: 0 })"
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
    browser.evaluate(ENDLESS)
    browser.type("Tell me a long story")
    browser.press("Enter", 13, "\r")
    browser.wait(
        "document.querySelector('.message.assistant .text').innerText.length > 20"
        " && document.getElementById('send').hidden && !document.getElementById('stop').hidden"
    )
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
    safe = {"P", "CODE", "STRONG", "PRE", "DIV", "SPAN", "BUTTON"}
    assert set(browser.evaluate(elements)) == safe
    assert not browser.problems


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
    assert browser.evaluate("document.querySelectorAll('.message.user').length") == 1
    assert not browser.evaluate("document.querySelector('.error')")


def rendered(browser: Browser, text: str) -> str:
    """The Markdown as the page renders it, as HTML."""
    box = "const box = document.createElement('div')"
    program = f"(() => {{ {box}; box.append(...renderMarkup({json.dumps(text)})); "
    html: str = browser.evaluate(program + "return box.innerHTML })()")
    return html


TABLE = (
    '<div class="table"><table>'
    '<thead><tr><th>a</th><th class="end">b</th></tr></thead>'
    '<tbody><tr><td>1</td><td class="end"><code>2</code></td></tr></tbody></table></div>'
)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# One\ntwo", "<h3>One</h3><p>two</p>"),
        ("a *b* **c** ~~e~~", "<p>a <em>b</em> <strong>c</strong> <del>e</del></p>"),
        ("`a *b*` and ``c`d``", "<p><code>a *b*</code> and <code>c`d</code></p>"),
        ("***both***", "<p><strong><em>both</em></strong></p>"),
        ("snake_case_name 2*3*4 * 5", "<p>snake_case_name 2*3*4 * 5</p>"),
        ("- a\n- b\n  - c\n\n1. d\n2. e",
         "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><ol><li>d</li><li>e</li></ol>"),
        ("> a\n> b", "<blockquote><p>a\nb</p></blockquote>"),
        ("|a|b|\n|-|-:|\n|1|`2`|", TABLE),
        ("a | b", "<p>a | b</p>"),
        ("---", "<hr>"),
        ("[t](https://x.example/a_(b))",
         '<p><a href="https://x.example/a_(b)" LINK>t</a></p>'),
        ("see https://x.example/a.",
         '<p>see <a href="https://x.example/a" LINK>https://x.example/a</a>.</p>'),
        ("[t](javascript:alert(1))", "<p>[t](javascript:alert(1))</p>"),
        ("[t](data:text/html,x) [t](//x.example)", "<p>[t](data:text/html,x) [t](//x.example)</p>"),
        ("![p](https://x.example/p.png)",
         '<p><a href="https://x.example/p.png" LINK>p</a></p>'),
        ("<img src=x onerror=alert(1)>", "<p>&lt;img src=x onerror=alert(1)&gt;</p>"),
        ("[<b>](https://x.example/\"onclick=alert(1))",
         '<p><a href="https://x.example/&quot;onclick=alert(1)" LINK>&lt;b&gt;</a></p>'),
        ("**open", "<p>**open</p>"),
    ],
)  # fmt: skip
def test_markdown(page: Browser, text: str, html: str) -> None:
    link = 'target="_blank" rel="noopener noreferrer"'
    assert rendered(page, text) == html.replace("LINK", link)


def test_code_blocks(page: Browser) -> None:
    """With the language; also while the end of the block has not come yet."""
    for text in ("~~~python\na < `b`\n\n# c\n~~~\nafter", "```python\na < `b`\n\n# c"):
        html = rendered(page, text)
        assert "<span>python</span>" in html
        assert "<pre><code>a &lt; `b`\n\n# c</code></pre>" in html
    assert rendered(page, "~~~x\n~~~\nafter").endswith("<p>after</p>")


@pytest.mark.parametrize(
    "unit",
    ["*a ", "[a](", "`", "> ", "- ", "  - a\n", "|a", "|a|\n|-|\n", "**", "_a", "```\n", "\\"],
)  # fmt: skip
def test_no_text_takes_long(page: Browser, unit: str) -> None:
    text = unit * (20_000 // len(unit))
    milliseconds = (
        "(() => { const t = performance.now(); "
        f"renderMarkup({json.dumps(text)}); return performance.now() - t }})()"
    )
    assert page.evaluate(milliseconds) < 3_000


@pytest.fixture(scope="module")
def page(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A page of which only the functions are used."""
    program = find_chromium()
    assert program, "no Chromium: run scripts/chromium.sh"
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    opened.open(server.url + "/")
    yield opened
    opened.close()


def ask(browser: Browser, text: str) -> None:
    browser.evaluate("document.getElementById('input').focus()")
    browser.type(text)
    browser.press("Enter", 13, "\r")


def texts(browser: Browser) -> list[str]:
    found: list[str] = browser.evaluate(
        "[...document.querySelectorAll('.message .text')].map(x => x.innerText.trim())"
    )
    return found


KEEP_REQUESTS = """
window.sent = [];
const real = window.fetch;
window.fetch = (url, options) => {
  if (String(url).includes("chat/completions")) sent.push(JSON.parse(options.body).messages);
  return real(url, options);
};
"""


def test_new_while_an_answer_runs(browser: Browser, server: Server) -> None:
    """The new conversation has nothing of the old one."""
    browser.open(server.url + "/")
    browser.wait("document.getElementById('status').textContent === 'ready'")
    browser.evaluate(ENDLESS)
    browser.evaluate(KEEP_REQUESTS)
    ask(browser, "Tell me a long story")
    browser.wait("document.querySelector('.message.assistant .text').innerText.length > 20")
    browser.press("KeyN", 78, modifiers=1)
    browser.evaluate("requestOptions = () => ({ max_tokens: 5 })")
    ask(browser, "Say hi.")
    browser.wait(f"{ANSWERED} === 1")
    assert browser.evaluate("sent.at(-1)") == [{"role": "user", "content": "Say hi."}]
    assert browser.evaluate("document.querySelectorAll('.message').length") == 2
    assert texts(browser)[0] == "Say hi."
    assert browser.evaluate("chat.messages.length") == 2


def test_a_too_long_message(browser: Browser, server: Server) -> None:
    """The reason is on the screen, the text in the box, and nothing is doubled."""
    browser.open(server.url + "/")
    browser.wait("document.getElementById('status').textContent === 'ready'")
    for _ in range(2):
        browser.evaluate("document.getElementById('input').value = 'word '.repeat(6000); submit()")
        browser.wait("!running && document.querySelector('.error')")
        box = "document.querySelector('.error').getBoundingClientRect()"
        assert browser.evaluate(f"{box}.top > 0 && {box}.bottom < innerHeight && {box}.height > 0")
        assert "context" in browser.evaluate("document.querySelector('.error').innerText")
        assert browser.evaluate("document.getElementById('input').value.length") == 29_999
        assert browser.evaluate("document.querySelectorAll('.message').length") == 0
    browser.evaluate(
        "settings.max_tokens = '3'; document.getElementById('input').value = 'Hi'; submit()"
    )
    browser.wait(f"{ANSWERED} === 1")
    assert not browser.evaluate("document.querySelector('.error')")


def test_reload_edit_and_retry(browser: Browser, server: Server) -> None:
    browser.open(server.url + "/")
    browser.wait("document.title === 'bundled:tiny-dense – edgec'")
    for name, value in (("temperature", "0"), ("max_tokens", "12")):
        set_option(browser, name, value)
    browser.evaluate("document.getElementById('system').open = true")
    browser.evaluate("document.getElementById('system-text').focus()")
    browser.type("Be brief.")
    for number, question in enumerate(("Who was Moses?", "And then?"), 1):
        ask(browser, question)
        browser.wait(f"{ANSWERED} === {number} && !running")
    before = texts(browser)
    browser.call("Page.reload")
    browser.wait(f"document.readyState === 'complete' && {ANSWERED} === 2")
    assert texts(browser) == before
    browser.evaluate(KEEP_REQUESTS)
    buttons = "[...document.querySelectorAll('.message .buttons button')]"
    # The first question in other words: what came after it goes.
    browser.evaluate(f"{buttons}.find(x => x.textContent === 'Edit').click()")
    assert browser.evaluate("document.getElementById('input').value") == "Who was Moses?"
    browser.press("Escape", 27)
    assert texts(browser) == before
    browser.evaluate(f"{buttons}.find(x => x.textContent === 'Edit').click()")
    browser.evaluate("document.getElementById('input').select()")
    ask(browser, "Who was Aaron?")
    browser.wait(f"{ANSWERED} === 1 && !running")
    assert texts(browser)[0] == "Who was Aaron?"
    system = {"role": "system", "content": "Be brief."}
    expected = [system, {"role": "user", "content": "Who was Aaron?"}]
    assert browser.evaluate("sent.at(-1)") == expected
    browser.evaluate(f"{buttons}.find(x => x.textContent === 'Retry').click()")
    browser.wait(f"sent.length === 2 && {ANSWERED} === 1 && !running")
    assert browser.evaluate("sent.at(-1)") == expected
    # A new conversation has the system prompt of the settings, which is empty.
    browser.press("KeyN", 78, modifiers=1)
    assert browser.evaluate("chat.system") == ""
    browser.call("Page.reload")
    browser.wait("document.readyState === 'complete' && window.chat !== 0 && !running")
    assert texts(browser) == []
    assert not browser.problems


def test_on_a_phone(browser: Browser, server: Server, tmp_path: Path) -> None:
    """Nothing is wider than the screen, and every button is as large as a finger."""
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=390,
        height=844,
        deviceScaleFactor=1,
        mobile=True,
    )
    browser.open(server.url + "/")
    browser.wait("document.getElementById('model').textContent === 'bundled:tiny-dense'")
    browser.evaluate("settings.max_tokens = '20'")
    ask(browser, "Who was Moses?")
    browser.wait(f"{ANSWERED} === 1 && !running")
    text = "```python\n" + "x" * 300 + "\n```\n|" + "long|" * 40 + "\n|" + "-|" * 40
    browser.evaluate(
        "document.querySelector('.assistant .text')"
        f".replaceChildren(...renderMarkup({json.dumps(text)}))"
    )
    shown = "[...document.querySelectorAll('button')].filter(x => x.checkVisibility())"
    sizes = browser.evaluate(f"{shown}.map(x => x.getBoundingClientRect().height)")
    assert len(sizes) >= 8
    assert min(sizes) >= 44
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert browser.evaluate("document.getElementById('model').getBoundingClientRect().width") > 0
    browser.screenshot(tmp_path / "phone.png")
    assert not browser.problems
