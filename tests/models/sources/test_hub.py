"""Downloads from a stand-in for the hub on this machine: what is fetched, and what goes wrong."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from safetensors.torch import save

from edgec.errors import EdgecError, InputError, ModelError
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files
from edgec.models.sources.resolve import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 300,
}


@dataclass
class Hub:
    """One model `org/tiny`, served the way the hub does; `fetched` are the files asked for."""

    files: dict[str, bytes]
    status: dict[str, tuple[int, str]] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        self.tokens.add(request.headers.get("authorization"))
        path = unquote(request.path.partition("?")[0])
        for start, (status, code) in self.status.items():
            if path.startswith(start):
                return status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"
        revisions = ("main", "v1", COMMIT)
        api = "/api/models/org/tiny"
        if path in (api, *(f"{api}/revision/{r}" for r in revisions)):
            siblings = [{"rfilename": name} for name in self.files]
            return self.json({"id": "org/tiny", "sha": COMMIT, "siblings": siblings})
        if path == f"{api}/tree/{COMMIT}":
            return self.json(
                [
                    {"type": "file", "path": n, "size": len(c), "oid": etag(c)}
                    for n, c in self.files.items()
                ]
            )
        if path.startswith(api):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        prefix = f"/org/tiny/resolve/{COMMIT}/"
        if path.startswith(prefix) and (name := path.removeprefix(prefix)) in self.files:
            if request.command == "GET":
                self.fetched.append(name)
            content = self.files[name]
            return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(content)}"'}, content
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    @staticmethod
    def json(value: object) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    shape = {"model.embed_tokens.weight": torch.zeros(300, 16), "lm_head.weight": torch.ones(3)}
    files: dict[str, bytes] = {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": save(shape),
        "pytorch_model.bin": b"pickle",
        "model.gguf": b"gguf",
        "README.md": b"read me",
        "modeling_tiny.py": b"raise SystemExit",
        "onnx/model.onnx": b"onnx",
        "original/model.safetensors": b"another layout",
        "model.fp16.safetensors": b"a variant",
        "vocab.json": b"{}",
    }
    for name, content in byte_tokenizer_files(300).items():
        assert isinstance(content, bytes)
        files[name] = content
    state = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = state.answer(self)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.chdir(tmp_path)
    yield state
    server.shutdown()
    server.server_close()


NEEDED = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
}


def fails(kind: type[EdgecError], message: str, **options: Any) -> None:
    with pytest.raises(kind, match=message) as caught:
        resolve(options.pop("model", "org/tiny"), **options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value) and caught.value.remedy


def test_only_what_is_needed(hub: Hub) -> None:
    seen: list[tuple[str, int, int]] = []
    source = resolve("org/tiny", progress=lambda *a: seen.append(a))
    assert set(hub.fetched) == NEEDED
    assert (source.id, source.kind, source.revision) == ("org/tiny", "hub", COMMIT)
    assert source.folder is not None
    assert {p.name for p in source.folder.rglob("*")} == NEEDED
    assert source.weights.read("lm_head.weight").tolist() == [1, 1, 1]
    assert seen[-1][0] == "download" and seen[-1][1] == seen[-1][2] > 300 * 16 * 4
    hub.fetched.clear()
    assert resolve("org/tiny").fingerprint() == source.fingerprint()
    assert hub.fetched == []


def test_nothing_is_drawn(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    resolve("org/tiny")
    assert capfd.readouterr() == ("", "")


def test_code_only_when_trusted(hub: Hub) -> None:
    source = resolve("org/tiny", trust_remote_code=True)
    assert set(hub.fetched) == NEEDED | {"modeling_tiny.py"}
    assert source.config.model_type == "llama"


INDEX = "model.safetensors.index.json"


def put_shards(hub: Hub, *names: str) -> None:
    """Shards of one tensor each, `t0` and so on, in place of model.safetensors."""
    del hub.files["model.safetensors"]
    for number, name in enumerate(names):
        hub.files[name] = save({f"t{number}": torch.ones(number + 1)})
    index = {"weight_map": {f"t{number}": name for number, name in enumerate(names)}}
    hub.files[INDEX] = json.dumps(index).encode()


@pytest.mark.parametrize(
    "names",
    [
        ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        (
            "model.safetensors-00001-of-00002.safetensors",
            "model.safetensors-00002-of-00002.safetensors",
        ),
        ("weights/[a].safetensors", "b.safetensors"),
        ("only.safetensors",),
    ],
)
def test_shards(names: tuple[str, ...], hub: Hub) -> None:
    """The files that the index names, whatever they are called, and no others."""
    hub.files["model-00003-of-00003.safetensors"] = b"of another layout"
    put_shards(hub, *names)
    source = resolve("org/tiny")
    assert set(source.weights.tensors()) == {f"t{number}" for number in range(len(names))}
    needed = NEEDED - {"model.safetensors"}
    assert set(hub.fetched) == needed | {INDEX, *names}
    hub.fetched.clear()
    assert resolve("org/tiny", offline=True).fingerprint() == source.fingerprint()
    assert source.folder is not None
    (source.folder / names[-1]).unlink()
    fails(ModelError, "weights are not cached.*without --offline", offline=True)


def test_an_index_whose_only_file_is_the_usual_one(hub: Hub) -> None:
    index = {"weight_map": {"lm_head.weight": "model.safetensors"}}
    hub.files[INDEX] = json.dumps(index).encode()
    assert resolve("org/tiny").weights.read("lm_head.weight").tolist() == [1, 1, 1]


def test_one_file_goes_before_an_index(hub: Hub) -> None:
    """As in transformers; the index and its files are not fetched."""
    single = hub.files["model.safetensors"]
    put_shards(hub, "old-1.safetensors")
    hub.files["model.safetensors"] = single
    assert "lm_head.weight" in resolve("org/tiny").weights.tensors()
    assert set(hub.fetched) == NEEDED


def test_shards_that_are_not_there(hub: Hub) -> None:
    put_shards(hub, "a.safetensors", "b.safetensors")
    del hub.files["b.safetensors"]
    fails(ModelError, "names files that are not there: b.safetensors")
    assert "a.safetensors" not in hub.fetched


def test_an_index_that_leads_elsewhere(hub: Hub) -> None:
    put_shards(hub, "../../a.safetensors")
    fails(ModelError, "names files that are not its shards")


def test_the_file_that_the_configuration_names(hub: Hub) -> None:
    named = {**CONFIG, "transformers_weights": "model.fp16.safetensors"}
    hub.files["config.json"] = json.dumps(named).encode()
    hub.files["model.fp16.safetensors"] = save({"x": torch.ones(1)})
    assert set(resolve("org/tiny").weights.tensors()) == {"x"}
    assert set(hub.fetched) == NEEDED - {"model.safetensors"} | {"model.fp16.safetensors"}


def test_refused_before_its_weights(hub: Hub) -> None:
    hub.files["config.json"] = json.dumps({**CONFIG, "model_type": "qwen99"}).encode()
    fails(ModelError, "'qwen99' is unknown")
    assert "model.safetensors" not in hub.fetched


def test_what_names_tokens_and_templates_is_fetched(hub: Hub) -> None:
    hub.files["additional_chat_templates/tool_use.jinja"] = b"for tools"
    hub.files["additional_chat_templates/notes.txt"] = b"no template"
    hub.files["added_tokens.json"] = b'{"<|tool|>": 290}'
    hub.files["special_tokens_map.json"] = b'{"mask_token": "<|mask|>"}'
    files = resolve("org/tiny").files
    asked = {"additional_chat_templates/tool_use.jinja", "added_tokens.json"}
    assert set(hub.fetched) == NEEDED | asked | {"special_tokens_map.json"}
    settings, tokenizer = files["tokenizer_config.json"], files["tokenizer.json"]
    assert isinstance(settings, bytes) and isinstance(tokenizer, bytes)
    named = {each["name"]: each["template"] for each in json.loads(settings)["chat_template"]}
    assert named["tool_use"] == "for tools" and "messages" in named["default"]
    added = {each["content"] for each in json.loads(tokenizer)["added_tokens"]}
    assert {"<|tool|>", "<|mask|>"} <= added


def test_tokenizer_missing(hub: Hub) -> None:
    del hub.files["tokenizer.json"]
    fails(ModelError, "no tokenizer.json")


def test_pickles_only(hub: Hub) -> None:
    del hub.files["model.safetensors"]
    fails(ModelError, "model org/tiny: its weights are pickles")
    assert "pytorch_model.bin" not in hub.fetched
    del hub.files["pytorch_model.bin"]
    fails(ModelError, "no safetensors files")


def test_revision(hub: Hub) -> None:
    assert resolve("org/tiny", revision="v1").revision == COMMIT
    assert resolve("org/tiny", revision=COMMIT).revision == COMMIT
    fails(ModelError, "no revision v9", revision="v9")


def test_offline(hub: Hub) -> None:
    fails(ModelError, r"not in the local cache.*run once without --offline", offline=True)
    online = resolve("org/tiny")
    hub.fetched.clear()
    hub.tokens.clear()
    hub.status["/"] = (500, "")
    offline = resolve("org/tiny", offline=True)
    assert offline.fingerprint() == online.fingerprint()
    assert offline.revision == COMMIT
    assert not hub.fetched and not hub.tokens  # not one request
    fails(ModelError, "at revision v1: not in the local cache", offline=True, revision="v1")


def test_offline_with_half_a_download(hub: Hub) -> None:
    source = resolve("org/tiny")
    assert source.folder is not None
    (source.folder / "model.safetensors").unlink()
    fails(ModelError, "weights are not cached.*without --offline", offline=True)
    (source.folder / "config.json").unlink()
    fails(ModelError, "not in the local cache, or not whole", offline=True)


def test_offline_by_environment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails(ModelError, "not in the local cache")
    assert not hub.tokens


def test_not_found(hub: Hub) -> None:
    hub.status["/api/models/org/other"] = (404, "RepoNotFound")
    fails(ModelError, "model org/other: not found on http", model="org/other")


def test_gated(hub: Hub) -> None:
    hub.status["/org/tiny/resolve"] = (401, "GatedRepo")
    fails(ModelError, "model org/tiny: gated.*accept them at .*/org/tiny.*HF_TOKEN")


@pytest.mark.parametrize("status", [401, 403])
def test_no_access(status: int, hub: Hub) -> None:
    hub.status["/api/models/org/tiny"] = (status, "")
    fails(ModelError, "org/tiny.*HF_TOKEN")


def test_hub_is_broken(hub: Hub) -> None:
    hub.status["/api"] = (500, "")
    fails(EdgecError, "answered 500.*try again later")


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    fails(EdgecError, r"cannot download from http://127.0.0.1:9: .*--offline")


def test_name_that_the_hub_forbids(hub: Hub) -> None:
    fails(InputError, "not a name on the hub .*org/name", model="org/tiny..x")


def test_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    resolve("org/tiny")
    assert hub.tokens == {"Bearer hf_environment"}
    hub.tokens.clear()
    resolve("org/tiny", token="hf_given")
    assert hub.tokens == {"Bearer hf_given"}
