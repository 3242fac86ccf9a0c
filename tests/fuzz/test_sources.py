"""Damaged and hostile model folders: each is read or refused, in bounded time and memory."""

from __future__ import annotations

import json
import random
import resource
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz.cases import Outcome, mutate_bytes, mutate_json, run_case

SECONDS, SLACK = 10, 500 << 20  # of a processor, on however busy a machine
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
Files = dict[str, bytes]
MODULES = (
    "edgec.models.weights.check",
    "edgec.models.sources.resolve",
    "transformers.conversion_mapping",
    "transformers.core_model_loading",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
)


def read(files: Files) -> int:
    """Everything up to a compile: the configuration, the checks, and every tensor."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    import torch

    from edgec.models.sources.resolve import resolve
    from edgec.models.weights.check import check_weights, expected_tensors

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="edgec-fuzz-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        source = resolve(folder)
        weights = check_weights(expected_tensors(source.config), source.weights)
        source.fingerprint()
        return sum(weights.read(name).numel() for name in weights.tensors())


@pytest.fixture(scope="module")
def folder() -> Files:
    """A whole folder of a tiny model in one file."""
    import torch
    from safetensors.torch import save
    from transformers import AutoConfig

    from edgec.models.sources.byte_tokenizer import byte_tokenizer_files
    from edgec.models.weights.check import expected_tensors

    config = AutoConfig.for_model(
        "llama",
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=288,
        max_position_embeddings=64,
        architectures=["LlamaForCausalLM"],
    )
    shapes = expected_tensors(config).shapes
    files: Files = {"config.json": config.to_json_string(use_diff=False).encode()}
    files[FILE] = save({name: torch.ones(shape) for name, shape in shapes.items()})
    for name, content in byte_tokenizer_files(288).items():
        assert isinstance(content, bytes)
        files[name] = content
    return files


def header_of(file: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", file[:8])[0]
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def with_header(header: object, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def damage_file(random: random.Random, files: Files) -> Files:
    """Anywhere, but mostly in the header, which is what is believed."""
    file = files[FILE]
    end = 8 + struct.unpack("<Q", file[:8])[0]
    if random.random() < 0.7:
        return {FILE: mutate_bytes(random, file[:end]) + file[end:]}
    return {FILE: mutate_bytes(random, file)}


def damage_header(random: random.Random, files: Files) -> Files:
    header, body = header_of(files[FILE])
    for _ in range(random.randint(1, 3)):
        header = mutate_json(random, header)
        if not isinstance(header, dict):
            break
    return {FILE: with_header(header, body)}


def damage_index(random: random.Random, files: Files) -> Files:
    """The file under another name, which an index gives."""
    header, _ = header_of(files[FILE])
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(header, "a.safetensors")}
    index["weight_map"].pop("__metadata__", None)
    text = json.dumps(mutate_json(random, index)).encode()
    text = mutate_bytes(random, text) if random.random() < 0.3 else text
    return {FILE: b"", "a.safetensors": files[FILE], INDEX: text}


def damage_config(random: random.Random, files: Files) -> Files:
    config = mutate_json(random, json.loads(files["config.json"]))
    text = json.dumps(config).encode()
    return {"config.json": mutate_bytes(random, text) if random.random() < 0.2 else text}


KINDS: dict[str, Callable[[random.Random, Files], Files]] = {
    "file": damage_file,
    "header": damage_header,
    "index": damage_index,
    "config": damage_config,
}


def mutant(kind: str, seed: int, files: Files) -> Files:
    changed = files | KINDS[kind](random.Random(f"{kind} {seed}"), files)
    return {name: content for name, content in changed.items() if name != FILE or content}


def ended(files: Files) -> Outcome:
    return run_case(read, files, seconds=20 * SECONDS, preload=MODULES)


def wrong(files: Files, outcome: Outcome) -> str:
    """What is not as it must be; empty otherwise."""
    size = sum(map(len, files.values()))
    if outcome.end not in ("returned", "refused"):
        return f"{outcome.end}: {outcome.detail[-700:]}"
    if outcome.peak > 2 * size + SLACK:
        return f"{outcome.peak >> 20} MB for {size} bytes"
    if outcome.end == "refused" and (len(outcome.detail) > 3000 or "\n" in outcome.detail):
        return f"a message of {len(outcome.detail)} characters: {outcome.detail[:300]!r}"
    return ""


def test_the_folder_itself_is_read(folder: Files) -> None:
    outcome = ended(folder)
    assert (outcome.end, outcome.value) == ("returned", 16 * (288 * 2 + 3 + 4 * 16 + 3 * 24)), (
        outcome
    )
    shards = {INDEX: b"{}", **folder}
    del shards[FILE]
    assert ended(shards).end == "refused"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [25, pytest.param(1500, marks=pytest.mark.slow)])
def test_damaged_folders(kind: str, count: int, folder: Files) -> None:
    found = []
    for seed in range(count):
        files = mutant(kind, seed, folder)
        if problem := wrong(files, ended(files)):
            found.append(f"{kind} {seed}: {problem}")
    assert not found, f"{len(found)} of {count}\n" + "\n".join(found[:20])


HOSTILE: dict[str, Callable[[], bytes]] = {
    "many tensors": lambda: with_header(
        {f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(250_000)},
        b"",
    ),
    "too many tensors": lambda: with_header(
        {f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(400_000)},
        b"",
    ),
    "nothing but lists": lambda: with_header({"x": [[]] * 6_000_000}, b""),
    "deep": lambda: struct.pack("<Q", 10_000_000) + b"[" * 10_000_000,
    "a long name": lambda: with_header({"\U0001f600" * 2_500_000: 1}, b""),
    "a huge length": lambda: struct.pack("<Q", 2**64 - 1) + b"{}",
    "a huge shape": lambda: with_header(
        {"x": {"dtype": "F32", "shape": [2**62] * 10_000, "data_offsets": [0, 4]}}, b"1234"
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(name: str, folder: Files) -> None:
    files = folder | {FILE: HOSTILE[name]()}
    outcome = ended(files)
    assert outcome.end == "refused" and not wrong(files, outcome), wrong(files, outcome)
