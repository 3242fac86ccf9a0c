"""Servers as a client meets them: `edgec serve` in a process of its own, over HTTP."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from edgec.artifact import Artifact, sha256_of
from edgec.manifest import FileRecord

# Chat templates of the three kinds, cut down to what matters: how calls are written.
HERMES = """\
{% if tools %}<|im_start|>system
Tools: {{ tools | tojson }}. Call: <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}
{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
"""
MISCHIEF = """\
{% for m in messages %}
{% if m.content == 'loop' %}
{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}
{% elif m.content == 'memory' %}{% set x = 'x' * 9999999999 %}{{ x }}
{% elif m.content == 'escape' %}{{ m.__class__.__mro__ }}
{% elif m.content == 'refuse' %}{{ raise_exception('roles must alternate') }}
{% elif m.content == 'long' %}{% for a in range(90000) %}{{ 'x' * 1000 }}{% endfor %}
{% else %}{{ m.content }}{% endif %}{% endfor %}"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All in one process: the servers are started once."""
    for item in items:
        if "tests/server/" in item.nodeid or item.nodeid.startswith("server/"):
            item.add_marker(pytest.mark.xdist_group("server"))


@dataclass
class Server:
    """A running `edgec serve`."""

    process: subprocess.Popen[str]
    url: str
    key: str = "none"
    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """The lines on stderr, after the address."""

    @property
    def client(self) -> openai.OpenAI:
        """OpenAI's own client. Without retries: a test sees the first answer."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=60)

    @property
    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=60)

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        """A JSON body as it is, or text in place of one."""
        with self.http as http:
            if isinstance(body, str | bytes):
                headers = {"Content-Type": "application/json", **options.pop("headers", {})}
                return http.post(path, content=body, headers=headers, **options)
            return http.post(path, json=body, **options)

    def metrics(self) -> dict[str, float]:
        with self.http as http:
            text = http.get("/metrics", headers={"Authorization": f"Bearer {self.key}"}).text
        pairs = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    def wait_metrics(self, **wanted: float) -> None:
        """Until gauges have these values: what a client's going away leads to takes a moment."""
        end = time.monotonic() + 20
        while True:
            values = self.metrics()
            if all(values[_series(name)] == value for name, value in wanted.items()):
                return
            assert time.monotonic() < end, {name: values[_series(name)] for name in wanted}
            time.sleep(0.02)

    def log(self, request_id: str) -> dict[str, Any]:
        """The log line of a request; it is written after the answer."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            for line in self.lines:
                if request_id in line:
                    record: dict[str, Any] = json.loads(line)
                    return record
            time.sleep(0.02)
        raise AssertionError(f"no log line of {request_id}")

    def stop(self, sent: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sent)
        return self.process.wait(30)


def _series(name: str) -> str:
    if name in ("prefilling", "decoding", "inactive"):
        return f'edgec_sequences{{phase="{name}"}}'
    return f"edgec_{name}"


@pytest.fixture(scope="session")
def start_server() -> Iterator[Callable[..., Server]]:
    """`start_server(artifact, *flags)`; stopped at the end of the session at the latest."""
    servers: list[Server] = []

    def start(artifact: Artifact | Path, *flags: str, wait: bool = True) -> Server:
        path = artifact.path if isinstance(artifact, Artifact) else artifact
        program = "from edgec.cli import main; main()"
        command = [sys.executable, "-c", program, "serve", str(path), "--port", "0", *flags]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONWARNINGS": "default"},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stderr.readline()
        found = re.fullmatch(r"edgec: (http://\S+)\n", first)
        assert found, first + process.stderr.read()
        server = Server(process, found[1])
        if "--api-key" in flags:
            server.key = flags[flags.index("--api-key") + 1]
        servers.append(server)
        for stream, keep in ((process.stdout, server.lines), (process.stderr, server.errors)):
            threading.Thread(target=_drain, args=(stream, keep), daemon=True).start()
        end = time.monotonic() + 60
        while wait and server.http.get("/health").status_code != 200:
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        return server

    yield start
    for server in servers:
        server.stop()


def _drain(stream: Any, keep: list[str]) -> None:
    for line in stream:
        keep.append(line)


@pytest.fixture(scope="session")
def with_template(
    tiny_dense_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """`with_template(text)`: the bundled model's artifact with another chat template."""

    def make(text: str) -> Path:
        folder = tmp_path_factory.mktemp("variant") / "model.edgec"
        shutil.copytree(tiny_dense_artifact.path, folder, copy_function=os.link)
        for name in ("chat_template.jinja", "manifest.json"):  # these were links
            (folder / name).unlink()
        template = folder / "chat_template.jinja"
        template.write_text(text, "utf-8")
        manifest = tiny_dense_artifact.manifest
        record = FileRecord(template.stat().st_size, sha256_of(template))
        files = manifest.files | {"chat_template.jinja": record}
        text = dataclasses.replace(manifest, files=files).to_json()
        (folder / "manifest.json").write_text(text, "utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Server], tiny_dense_artifact: Artifact) -> Server:
    """The bundled model with the default options."""
    return start_server(tiny_dense_artifact)


@pytest.fixture(scope="session")
def tool_server(
    start_server: Callable[..., Server], with_template: Callable[[str], Path]
) -> Server:
    """The bundled model with tools in its template, and narrow limits."""
    return start_server(
        with_template(HERMES),
        *("--api-key", "secret", "--alias", "tiny", "--max-body", "20K", "--max-queue", "1"),
        *("--memory", "2200K", "--client-timeout", "2"),
    )
