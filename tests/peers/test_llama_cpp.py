"""Token ids and ends of text of GGUF files are llama.cpp's, for every form of vocabulary.

`llama_cpp.json` has what llama.cpp answered. The slow tests ask it again, in the environment with
the pinned package of the extra `[peers]` that `benchmarks/peers.py` uses, made at its first use;
`python -m tests.peers.test_llama_cpp` writes the file anew.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peer_models import Setup, environment
from tests.peers.vocabularies import TEXTS, write_all
from tokenizers import Tokenizer

from edgec.models.gguf.header import Header
from edgec.models.gguf.splits import SPLITS
from edgec.models.gguf.tokenizer import Vocabulary, tokenizer_files

RECORDED = Path(__file__).with_name("llama_cpp.json")
CACHE = Path.home() / ".cache/edgec/peers"

APPROXIMATED = {
    "gpt-4o llama4 kanana2 talkie minimax-m2 tekken": "\u0928",
    "tiny_aya cohere2moe youtu": "camelCase",
}
"""Where llama.cpp does not cut as the model's own pattern, which stands beside its own in
`llama-vocab.cpp`: C++ has no classes for marks and for case. By the text's start.
"""


def approximated(name: str, text: str) -> bool:
    starts = [s for names, s in APPROXIMATED.items() if name.removeprefix("bpe ") in names.split()]
    return any(text.startswith(start) for start in starts)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("vocabularies"))


@cache
def python() -> Path:
    """Of the environment with llama.cpp. What fails here is an error, not a skip."""
    return environment(Setup(CACHE, "", CACHE, 2), "llamacpp", ("llama-cpp-python",))


def ask(paths: list[Path], texts: tuple[str, ...]) -> list[dict[str, Any]]:
    request = json.dumps({"files": [str(path) for path in paths], "texts": texts})
    worker = Path(__file__).with_name("llama_cpp_worker.py")
    done = subprocess.run(
        [str(python()), str(worker)], input=request, capture_output=True, text=True, check=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def recorded() -> dict[str, dict[str, Any]]:
    groups = json.loads(RECORDED.read_text())
    return {name: group["answers"] for group in groups for name in group["names"]}


def ours(path: Path) -> tuple[Vocabulary, Tokenizer]:
    vocabulary = Vocabulary(Header(path))
    text = tokenizer_files(vocabulary)["tokenizer.json"].decode()
    return vocabulary, Tokenizer.from_str(text)


def test_every_rule_is_there(files: dict[str, Path]) -> None:
    """And the vocabularies tell the rules apart, but for those that differ in no short text."""
    assert {f"bpe {name}" for name, split in SPLITS.items() if not split.raw} < files.keys()
    rules = {(split.patterns, split.ignore_merges) for split in SPLITS.values() if not split.raw}
    answers = {name: json.dumps(found["ids"]) for name, found in recorded().items()}
    assert len({answers[f"bpe {name}"] for name in SPLITS if not SPLITS[name].raw}) > 0.8 * len(
        rules
    )


def test_ids_and_ends_are_those_of_llama_cpp(files: dict[str, Path]) -> None:
    wanted = recorded()
    assert wanted.keys() == files.keys()
    for name, path in files.items():
        vocabulary, tokenizer = ours(path)
        for text, right in zip(TEXTS, wanted[name]["ids"], strict=True):
            found = tokenizer.encode(text).ids
            assert (found != right) == approximated(name, text), (name, text)
        assert sorted(vocabulary.ends()) == wanted[name]["ends"], name


@pytest.mark.slow
def test_llama_cpp_says_so(files: dict[str, Path]) -> None:
    """The file has what llama.cpp answers; and what it reads out, our decoder does."""
    found = dict(zip(files, ask(list(files.values()), TEXTS), strict=True))
    wanted = recorded()
    for name, path in files.items():
        pieces = found[name].pop("pieces")
        assert found[name] == wanted[name], name
        vocabulary, tokenizer = ours(path)
        for row, text in zip(found[name]["ids"], pieces, strict=True):
            text = text.removeprefix(" ") if vocabulary.add_space else text
            assert tokenizer.decode(row, skip_special_tokens=False) == text, name


@pytest.mark.slow
def test_published_vocabularies(tmp_path: Path) -> None:
    """Those that llama.cpp's own package has for its tests: sixteen models', whole."""
    pin = next(p for p in (CACHE / "venvs/llamacpp/ready.txt").read_text().split() if python())
    command = [str(python()), "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "-d", str(tmp_path), pin], check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        for member in archive:
            if "/models/ggml-vocab-" in member.name and member.name.endswith(".gguf"):
                member.name = Path(member.name).name
                archive.extract(member, tmp_path, filter="data")
    # WordPiece is for encoders.
    paths = [path for path in sorted(tmp_path.glob("*.gguf")) if "bert-bge" not in path.name]
    assert len(paths) >= 16
    for path, answers in zip(paths, ask(paths, TEXTS), strict=True):
        vocabulary, tokenizer = ours(path)
        for text, right in zip(TEXTS, answers["ids"], strict=True):
            assert tokenizer.encode(text).ids == right, (path.name, text)
        assert sorted(vocabulary.ends()) == answers["ends"], path.name


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = write_all(Path(folder))
        found = dict(zip(files, ask(list(files.values()), TEXTS), strict=True))
    groups: dict[str, list[str]] = {}
    for name, answers in found.items():
        groups.setdefault(json.dumps({k: answers[k] for k in ("ids", "ends")}), []).append(name)
    lines = [f'{{"names": {json.dumps(n)}, "answers": {a}}}' for a, n in groups.items()]
    RECORDED.write_text("[\n" + ",\n".join(lines).replace(", ", ",") + "\n]\n")


if __name__ == "__main__":
    main()
