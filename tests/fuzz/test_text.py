"""Damaged tokenizers and hostile templates: an EdgecError or an answer, in bounded time and memory.

What a user runs is tried: a folder is opened, text is encoded and decoded, a chat is rendered.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz.cases import Outcome, mutate_bytes, mutate_json, run_case
from tests.tokenizer.folders import KINDS, PROCESSORS, TEXTS, write
from tests.tokenizer.templates import TEMPLATES

from edgec.errors import EdgecError, InputError
from edgec.runtime.chat import ChatTemplate
from edgec.runtime.tokenizer import Detokenizer, Tokenizer

FEW, MANY = 40, 3000
SECONDS, MEMORY = 20.0, 4 * 2**30
PRELOAD = ("tests.fuzz.test_text",)
MESSAGES = [
    {"role": "system", "content": "Be kind"},
    {"role": "user", "content": "Hi", "name": None},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
]
Files = dict[str, bytes]


def open_and_use(files: Files) -> int:
    """All that a session does with a folder's tokenizer and template."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        tokenizer = Tokenizer(folder)
        template = ChatTemplate.load(folder, tokenizer)
        tried = [lambda text=text: use(tokenizer, text) for text in TEXTS]
        if template is not None:
            template.seconds = 2
            tried.append(lambda: use(tokenizer, template.render(MESSAGES)))
        return sum(_answered(each) for each in tried)


def use(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, context=4096)
    stream = Detokenizer(tokenizer)
    pieces = [*(stream.add(token) for token in ids), stream.finish()]
    assert isinstance("".join(pieces), str)
    tokenizer.decode(ids, skip_special_tokens=False)
    assert tokenizer.eos_token_id is None or tokenizer.eos_token_id >= 0


def _answered(call: Any) -> bool:
    try:
        call()
    except InputError:
        return False
    return True


def compile_folders(seed: int, count: int) -> Counter[str]:
    """What a compile does with each; what it takes must open. One process, for torch is large."""
    ends: Counter[str] = Counter()
    for files in folders(seed, count):
        try:
            carried = compile_tokenizer(files)
        except EdgecError:
            ends["refused"] += 1
            continue
        except BaseException as error:
            raise AssertionError(f"at {files!r:.3000}") from error
        try:
            open_and_use(carried)
        except EdgecError as error:
            raise AssertionError(f"compiled, but cannot be opened: {files!r:.3000}") from error
        ends["returned"] += 1
    return ends


def compile_tokenizer(files: Files) -> Files:
    from transformers import AutoConfig

    from edgec.models.sources.tokenizer import tokenizer_files

    with tempfile.TemporaryDirectory() as name:
        for file, content in files.items():
            (Path(name) / file).write_bytes(content)
        return tokenizer_files("m", Path(name), AutoConfig.for_model("llama"))


def render(source: str) -> int:
    return len(ChatTemplate(source, {"bos_token": "<s>"}, 2).render(MESSAGES))


def folders(seed: int, count: int) -> Iterator[Files]:
    """Folders with a fault in one file."""
    chance = random.Random(seed)
    whole = list(_whole_folders())
    for _ in range(count):
        files = dict(chance.choice(whole))
        name = chance.choice(sorted(files))
        if name.endswith(".json") and chance.random() < 0.7:
            value = json.loads(files[name])
            if name == "tokenizer.json" and chance.random() < 0.7:
                # The vocabulary is most of the file, and the least of what can go wrong.
                part = chance.choice([key for key in value if key not in ("model", "version")])
                value[part] = mutate_json(chance, {part: value[part]}).get(part)
            else:
                value = mutate_json(chance, value)
            files[name] = json.dumps(value).encode()
        else:
            files[name] = mutate_bytes(chance, files[name])
        yield files


def _whole_folders() -> Iterator[Files]:
    config = {
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>"},
        "clean_up_tokenization_spaces": True,
        "extra_special_tokens": ["<|tool|>"],
    }
    decoder = {"900": {"content": "<img>", "lstrip": True, "special": True}}
    templates: Any = [{"name": n, "template": TEMPLATES[n]} for n in ("qwen", "phi")]
    templates.append({"name": "default", "template": TEMPLATES["scopes"]})
    for kind, make in KINDS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = write(
                Path(name),
                make(),
                processor=PROCESSORS["sequence" if kind == "byte level" else "bos and eos"],
                tokenizer_config={**config, "chat_template": templates},
                special_tokens_map={"pad_token": {"content": "<pad>", "lstrip": False}},
                added_tokens={"<extra>": 901},
            )
            if kind in ("unigram", "wordpiece"):
                (folder / "chat_template.jinja").write_text(TEMPLATES["granite"])
                listed = {**config, "added_tokens_decoder": decoder}
                (folder / "tokenizer_config.json").write_text(json.dumps(listed))
            (folder / "config.json").unlink()
            yield {path.name: path.read_bytes() for path in folder.iterdir()}


HOSTILE = (
    "{{% for i in range({n}) %}}{{% for j in range({n}) %}}{body}{{% endfor %}}{{% endfor %}}",
    "{{{{ range({n}) | list | length }}}}",
    "{{{{ 'x' * {n} }}}}",
    "{{{{ 'x'.ljust({n}) | length }}}}",
    "{{{{ 'x' | center({n}) }}}}",
    "{{{{ '%{n}d' | format(1) }}}}",
    "{{{{ '{{:{n}}}'.format(1) }}}}",
    "{{%set x=namespace(t='x')%}}{{%for i in range({n})%}}{{%set x.t=x.t*2%}}{{%endfor%}}",
    "{{% macro f(x) %}}{{{{ f(x + 1) }}}}{body}{{% endmacro %}}{{{{ f({n}) }}}}",
    "{{% for m in messages recursive %}}{{{{ loop(messages) }}}}{{% endfor %}}",
    "{{{{ lipsum(n={n}) }}}}",
    "{{{{ [1] | slice({n}) | list }}}}",
    "{{{{ [1] | batch({n}, 2) | list | length }}}}",
    "{{{{ strftime_now('%Y' * {n}) | length }}}}",
    "{{{{ messages | tojson(indent={n}) }}}}",
    "{{{{ {n} ** {n} ** 9 }}}}",
    "{{{{ {n} // 0 }}}}{{{{ {n} | dictsort }}}}",
    "{{{{ ('(' * {n}) | urlize }}}}{{{{ ('<' * {n}) | striptags | length }}}}",
    "{{{{ 'ab' | wordwrap({n}) | indent({n}) }}}}",
    "{{% set x = dict.fromkeys(range({n})) %}}{{{{ x | length }}}}",
    "{{% generation %}}{body}{{% endgeneration %}}{{% include 'x' %}}",
    "{{{{ cycler() }}}}{{{{ joiner().__class__ }}}}{{{{ namespace.__init__.__globals__ }}}}",
    "{{{{ ''.__class__.__mro__ }}}}{{{{ messages.append(1) }}}}{{{{ self.__dict__ }}}}",
    "{{% break %}}",
    "{{{{ raise_exception({n}) }}}}",
    "{{% block b %}}{{{{ self.b() }}}}{{% endblock %}}",
)


def templates(seed: int, count: int) -> Iterator[str]:
    """Templates that loop, fill the memory, recurse, nest, or are damaged."""
    chance = random.Random(seed)
    names = sorted(TEMPLATES)
    for number in range(count):
        kind = number % 3
        if kind == 0:
            n = chance.choice((0, 3, 90, 999, 10**5, 10**7, 10**9, 10**10, -1))
            body = chance.choice(("", "x" * 1000, "{{ messages | tojson }}", "{% break %}"))
            yield HOSTILE[number // 3 % len(HOSTILE)].format(n=n, body=body)
        elif kind == 1:
            depth = chance.choice((20, 30, 90, 500, 5000))
            before, after = chance.choice(
                [
                    ("{% if 1 %}", "{% endif %}"),
                    ("{% for i in [1] %}", "{% endfor %}"),
                    ("{% generation %}", "{% endgeneration %}"),
                    ("{% macro f() %}", "{% endmacro %}"),
                    ("{% set x %}", "{% endset %}"),
                ]
            )
            nested = "{{ " + "(" * depth + "1" + ")" * depth + " }}"
            signs = "{{ " + "not " * depth + "1 }}" + "{{ 1" + " ~ 1" * depth + " }}"
            yield chance.choice((before * depth + "x" + after * depth, nested, signs))
        else:
            source = TEMPLATES[chance.choice(names)].encode()
            yield mutate_bytes(chance, source).decode(errors="replace")


def run_all(case: Any, inputs: Iterator[Any], **limits: Any) -> Counter[str]:
    """How the cases ended; the first that ended badly fails the test."""
    ends: Counter[str] = Counter()
    for given in inputs:
        outcome: Outcome = run_case(case, given, seconds=SECONDS, preload=PRELOAD, **limits)
        bad = outcome.end in ("raised", "died", "hung")
        assert not bad, f"{outcome.end} {outcome.detail}\nat {given!r:.3000}"
        ends[outcome.end] += 1
    return ends


def check_folders(count: int) -> None:
    ends = run_all(open_and_use, folders(0, count), memory=MEMORY)
    assert min(ends["returned"], ends["refused"]) > count / 10


def check_templates(count: int) -> None:
    slowest = 0.0
    for source in templates(1, count):
        began = time.monotonic()
        run_all(render, iter([source]), memory=MEMORY)
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < SECONDS


def check_compiles(count: int) -> None:
    outcome = run_case(compile_folders, 2, count, seconds=60 + count, preload=PRELOAD)
    assert outcome.end == "returned", outcome.detail
    ends = outcome.value
    assert min(ends["returned"], ends["refused"]) > count / 10


def test_damaged_folders() -> None:
    check_folders(FEW)


def test_hostile_templates() -> None:
    check_templates(FEW)


def test_damaged_folders_are_refused_by_a_compile() -> None:
    check_compiles(FEW // 4)


@pytest.mark.slow
def test_many_damaged_folders() -> None:
    check_folders(MANY)


@pytest.mark.slow
def test_many_hostile_templates() -> None:
    check_templates(MANY // 3)


@pytest.mark.slow
def test_compiles_of_many_damaged_folders() -> None:
    check_compiles(MANY // 3)
