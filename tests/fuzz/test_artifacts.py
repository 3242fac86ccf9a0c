"""Mutated artifacts: each is refused by an EdgecError, or what was changed cannot matter.

A mutant is loaded and asked for a few tokens in a process of its own. As it is, a changed byte is
always noticed. With every SHA-256 renewed it may be another model, but no case ends its process or
raises anything else than an EdgecError: what a manifest says that the program or the archive does
not hold is refused before native code sees it. The program's own bytes are left alone then: an
artifact is a program.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz.cases import Outcome, mutate_bytes, mutate_json, run_case

from edgec.artifact import Artifact
from edgec.manifest import MANIFEST_NAME, content_sha256

PARTS = (
    "manifest fields", "manifest numbers", "manifest bytes", "weights head", "weights body",
    "tokenizer", "small files", "program",
)  # fmt: skip
SMALL = ("tokenizer_config.json", "generation_config.json", "chat_template.jinja", "config.json")
PROGRAM, WEIGHTS = "cpu.vmfb", "weights.irpa"
PRELOAD = ("edgec.runtime.session", "iree.runtime", "tokenizers", "jinja2.sandbox")


@pytest.fixture(scope="module")
def original(compile_once: Callable[..., Artifact]) -> Artifact:
    return compile_once("fuzzed", "bundled:tiny-dense", layers=1, ctx_size=64)


def generate(folder: str) -> list[int]:
    """Loads an artifact; text, ids at both ends of the vocabulary, chat; more than one chunk."""
    from edgec.runtime.session import Session

    session = Session(folder)
    last = session.model.vocab_size - 1
    tokens: list[int] = []
    for prompt in ("Once upon a time", [0, last] * 20, [last]):
        tokens += session.generate(prompt, max_new_tokens=3, do_sample=False).tokens
    if session.model.chat_template is not None:
        message = [{"role": "user", "content": "Who?"}]
        tokens += session.generate(message, max_new_tokens=3, do_sample=False).tokens
    return tokens


class Mutants:
    """Copies of an artifact with one part changed, one at a time in the same place."""

    def __init__(self, original: Artifact, place: Path) -> None:
        self.folder = place / "mutant.edgec"
        self._original = original.path
        self._files = {file.name: file.read_bytes() for file in original.path.iterdir()}
        assert {PROGRAM, WEIGHTS, *SMALL} <= set(original.manifest.files)
        self._manifest = json.loads(self._files[MANIFEST_NAME])

    def make(self, part: str, seed: int, *, renewed: bool) -> bool:
        """Writes a mutant; False where it is the original.

        Args:
            renewed: With all SHA-256s as if edgec had written it so.
        """
        rng, changed, manifest = random.Random(f"{part} {seed}"), {}, self._manifest
        if part == "manifest fields":
            manifest = mutate_json(rng, manifest)
        elif part == "manifest numbers":
            manifest = _numbers(rng, manifest)
        elif part == "manifest bytes":
            changed[MANIFEST_NAME] = mutate_bytes(rng, self._files[MANIFEST_NAME])
        else:
            name = {"tokenizer": "tokenizer.json", "program": PROGRAM}.get(part)
            name = name or (WEIGHTS if part.startswith("weights") else rng.choice(SMALL))
            changed[name] = self._changed(rng, part, name)
        if renewed and isinstance(manifest, dict):
            manifest = _renewed(manifest, changed)
        if MANIFEST_NAME not in changed:
            changed[MANIFEST_NAME] = _text(manifest)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self._original, self.folder, copy_function=os.link)
        for name, content in changed.items():
            (self.folder / name).unlink()
            (self.folder / name).write_bytes(content)
        return any(content != self._files[name] for name, content in changed.items())

    def _changed(self, rng: random.Random, part: str, name: str) -> bytes:
        content = self._files[name]
        if part == "weights head":
            return _head(rng, content)
        if part in ("weights body", "program"):
            mutant = mutate_bytes(rng, content)
            return mutant if mutant != content else content[:-1]
        if name.endswith(".json") and rng.random() < 0.5:
            return json.dumps(mutate_json(rng, json.loads(content))).encode()
        return mutate_bytes(rng, content)


def _numbers(rng: random.Random, manifest: Any) -> Any:
    """One to three numbers are others, near, far or absurd."""
    copy = json.loads(json.dumps(manifest))
    places: list[tuple[Any, Any]] = []

    def find(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            if isinstance(value[key], dict | list):
                find(value[key])
            elif type(value[key]) is int:
                places.append((value, key))

    find(copy)
    for holder, key in rng.sample(places, rng.randint(1, 3)):
        old = holder[key]
        others = (old + 1, old - 1, old * 2, old // 2, 0, 1, -1, 2**31, 2**62, 2**70, 10**6)
        holder[key] = rng.choice(others)
    return copy


def _head(rng: random.Random, content: bytes) -> bytes:
    """Bytes of the archive's header, table and names; numbers at both ends of their range."""
    end = content.index(b"model.") + 900
    mutant = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(0, end - 8)
        if rng.random() < 0.5:
            at = at // 4 * 4
        value = rng.choice((0, 1, 2**63, 2**64 - 1, 2**64 - rng.randrange(1, 4096), len(content)))
        width = rng.choice((1, 4, 8))
        mutant[at : at + width] = value.to_bytes(8, "little")[:width]
    return bytes(mutant)


def _renewed(manifest: dict[str, Any], changed: dict[str, bytes]) -> dict[str, Any]:
    manifest = json.loads(json.dumps(manifest))
    for name, content in changed.items():
        if name != MANIFEST_NAME:
            sha256 = hashlib.sha256(content).hexdigest()
            manifest["files"][name] = {"size": len(content), "sha256": sha256}
    return manifest | {"sha256": content_sha256(manifest)}


def _text(manifest: Any) -> bytes:
    return (json.dumps(manifest, indent=2) + "\n").encode()


def fuzz(mutants: Mutants, count: int, *, renewed: bool, first: int = 0) -> Counter[str]:
    """Tries so many mutants, of each part in turn; how they ended, as `part: end`."""
    parts = [part for part in PARTS if not (renewed and part in ("manifest bytes", "program"))]
    ends: Counter[str] = Counter()
    for number in range(first, first + count):
        part, seed = parts[number % len(parts)], number // len(parts)
        if not mutants.make(part, seed, renewed=renewed):
            continue
        outcome = run_case(generate, str(mutants.folder), seconds=60, preload=PRELOAD)
        ends[f"{part}: {outcome.end}"] += 1
        told = f"{part} {seed} renewed={renewed}: {outcome}"
        allowed = ("refused", "returned") if renewed else ("refused",)
        assert outcome.end in allowed, told
    return ends


@pytest.fixture
def mutants(original: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mutants:
    monkeypatch.setenv("EDGEC_CHECK_WEIGHTS", "always")  # mutants come and go in one place
    return Mutants(original, tmp_path)


def test_the_original_generates(mutants: Mutants, original: Artifact) -> None:
    """And so does one that was written anew with its checksums: refusals are of what changed."""
    first = run_case(generate, str(original.path), seconds=120, preload=PRELOAD)
    assert first.end == "returned" and len(first.value) >= 9, first
    mutants.make("small files", 0, renewed=True)
    mutants.folder.joinpath(MANIFEST_NAME).write_bytes(_text(_renewed(mutants._manifest, {})))
    for name in SMALL:
        mutants.folder.joinpath(name).write_bytes(mutants._files[name])
    again: Outcome = run_case(generate, str(mutants.folder), seconds=120, preload=PRELOAD)
    assert again.value == first.value
    assert dataclasses.replace(again, peak=0).end == "returned"


def test_a_change_is_noticed(mutants: Mutants) -> None:
    assert sum(fuzz(mutants, 32, renewed=False).values()) > 24


def test_nothing_dies_with_checksums_renewed(mutants: Mutants) -> None:
    assert sum(fuzz(mutants, 30, renewed=True).values()) > 24


@pytest.mark.slow
@pytest.mark.parametrize("renewed", [False, True])
@pytest.mark.parametrize("first", range(1000, 6000, 1000))
def test_thousands(mutants: Mutants, first: int, renewed: bool) -> None:
    ends = fuzz(mutants, 1000, renewed=renewed, first=first)
    print(sorted(ends.items()))
    assert sum(ends.values()) > 900
