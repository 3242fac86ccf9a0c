"""Mutated GGUF files are read to their end or refused: no traceback, no hang, no memory.

A process reads many mutants, one after the other; where one kills it or hangs, it is named.
"""

from __future__ import annotations

import random
import resource
import struct
import time
import traceback
from pathlib import Path

import pytest
from tests.fuzz.cases import mutate_bytes, run_case

from edgec.errors import EdgecError

SECONDS, MEMORY = 10.0, 500 << 20
BATCH = 50
KEYS = (
    "block_count", "context_length", "embedding_length", "feed_forward_length", "head_count",
    "head_count_kv", "key_length", "value_length", "dimension_count", "freq_base", "epsilon",
    "general.alignment", "ggml.tokens", "ggml.merges", "token_type", "eos_token_id", "ggml.pre",
    "blk.0.attn_q.weight", "token_embd.weight", "output_norm.weight", "split.count",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 7, 255, 4096, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1)


def mutant(seed: int, data: bytes, header: int) -> bytes:
    """`data` with a header that lies, by a number beside a name or anywhere, or with other data."""
    chance = random.Random(seed)
    kind = chance.random()
    if kind < 0.4:
        at = data.find(chance.choice(KEYS).encode())
        at = max(0, at) + chance.randrange(48)
        number = struct.pack("<Q", chance.choice(NUMBERS))[: chance.choice((1, 4, 8))]
        return data[:at] + number + data[at + len(number) :]
    if kind < 0.9:
        return mutate_bytes(chance, data[:header]) + data[header:]
    return mutate_bytes(chance, data)


def read(path: Path) -> None:
    """Reads what a compile reads."""
    from tokenizers import Tokenizer

    from edgec.models.gguf.weights import GgufWeights
    from edgec.models.sources.resolve import resolve
    from edgec.models.weights.check import check_weights, expected_tensors

    source = resolve(str(path))
    source.fingerprint()
    tokens = source.files["tokenizer.json"]
    assert isinstance(tokens, bytes) and isinstance(source.weights, GgufWeights)
    Tokenizer.from_str(tokens.decode()).encode("the cat <|end|>")
    checked = check_weights(expected_tensors(source.config), source.weights)
    for name in checked.names:
        if checked.read_quantized(name) is None:
            checked.read(name)


def read_all(path: Path, header: int, seeds: range) -> dict[str, list[str]]:
    """Reads the mutants of the seeds; what went wrong, by seed, and how many were taken."""
    data = path.read_bytes()
    found: dict[str, list[str]] = {"wrong": [], "taken": [], "refused": []}
    place = path.with_name(f"{seeds.start}.gguf")
    for seed in seeds:
        place.write_bytes(mutant(seed, data, header))
        before, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read(place)
            found["taken"].append(str(seed))
        except EdgecError as error:
            found["refused"].append(str(error))
            if "\n" in str(error) or len(str(error)) > 2000:
                found["wrong"].append(f"{seed}: says {error}")
        except BaseException:
            found["wrong"].append(f"{seed}: {traceback.format_exc()}")
        if time.process_time() - before > SECONDS:
            found["wrong"].append(f"{seed}: {time.process_time() - before:.1f} s")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
        if grown > 2 * place.stat().st_size + MEMORY:
            found["wrong"].append(f"{seed}: {grown >> 20} MB more")
    place.unlink()
    return found


@pytest.mark.parametrize(
    "count", [200, pytest.param(3000, marks=pytest.mark.slow)], ids=["hundreds", "thousands"]
)
def test_mutants_are_read_or_refused(tmp_path: Path, count: int) -> None:
    from tests.models.gguf.files import Type, write_gguf
    from tests.models.gguf.test_gguf import make_model

    from edgec.models.gguf.header import Header

    path = tmp_path / "whole.gguf"
    write_gguf(path, make_model("qwen3"), lambda _: Type.Q8_0)
    header = min(tensor.offset for tensor in Header(path).tensors.values())
    taken = refused = 0
    for start in range(0, count, BATCH):
        seeds = range(start, start + BATCH)
        outcome = run_case(
            read_all,
            path,
            header,
            seeds,
            seconds=600,
            preload=(
                "tests.fuzz.test_gguf",
                "edgec.models.gguf.model",
                "edgec.models.sources.resolve",
            ),
        )
        assert outcome.end == "returned", f"one of {seeds}: {outcome.end} {outcome.detail}"
        assert not outcome.value["wrong"], "\n".join(outcome.value["wrong"])
        taken += len(outcome.value["taken"])
        refused += len(outcome.value["refused"])
    # Neither all lies are believed, nor is everything refused out of hand.
    assert taken > count / 50 and refused > count / 4
    print(f"{taken} taken, {refused} refused")
