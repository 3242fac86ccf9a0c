"""One family, from a tiny configuration to numbers: compiled and run against transformers eager."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgec
from edgec.coverage.result import EXACT, FAILS, NOT_TEXT, Result, sources

__all__ = ["DECODED", "FOLLOW_UP", "PROMPTS", "TOLERANCE", "check"]

PROMPTS = (1, 32, 33, 70)
DECODED = 8
FOLLOW_UP = 5
TOLERANCE = 1e-4
"""Of the range of the logits."""

_CONTEXT = 128
_CHUNK = 64  # of two chunks the second goes past the end of a window's ring


class _Mismatch(Exception):
    """A comparison that came out wrong."""


class _Stages:
    """The stage in progress, as the compiler and the comparison tell it."""

    def __init__(self) -> None:
        self.current = "configuration"

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        self.current = name
        yield

    def update(self, done: int, total: int, unit: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def check(family: str, target: str = "cpu") -> Result:
    """Compiles a tiny random model of a family and compares it with transformers eager.

    Prefill of 1, 32, 33 and 70 tokens, then 8 greedy tokens, then a follow-up prefill of 5. The
    reference of each is eager's forward pass over all tokens so far, without a cache.

    Args:
        family: A model type of transformers.
        target: As for `edgec.compile`.

    Returns:
        What came of it; a failure is a result, not an exception.
    """
    from edgec.models.tiny import not_a_text_decoder

    if reason := not_a_text_decoder(family):
        return Result(family, target, NOT_TEXT, message=reason, sources=sources())
    started, stages = time.perf_counter(), _Stages()
    error: float | None = None
    kinds: tuple[str, ...] = ()
    attention = ""
    status, stage, message = EXACT, "", ""
    try:
        with tempfile.TemporaryDirectory(prefix="edgec-coverage-") as folder:
            eager = _write(family, Path(folder) / "model", stages)
            artifact = edgec.compile(
                str(Path(folder) / "model"),
                target=target,
                output=Path(folder) / "artifact",
                ctx_size=_CONTEXT,
                chunk_size=_CHUNK,
                progress=stages,
            )
            assert artifact is not None
            kinds = tuple(sorted({buffer.kind for buffer in artifact.manifest.state}))
            attends = {"attention", "window"} & set(kinds)
            attention = artifact.manifest.model.attention if attends else ""
            error = _compare(eager, artifact, target, stages)
    except Exception as failure:
        status, stage, message = FAILS, stages.current, _line(failure)
    seconds = round(time.perf_counter() - started, 1)
    return Result(
        family, target, status, stage, message, error, kinds, attention, seconds, sources()
    )


def _write(family: str, folder: Path, stages: _Stages) -> Any:
    """Writes the folder of a tiny random model and returns transformers' module."""
    from edgec.models.sources.byte_tokenizer import byte_tokenizer_files
    from edgec.models.tiny import VOCABULARY, tiny_config, tiny_model

    with stages.stage("configuration"):
        config = tiny_config(family)
    with stages.stage("eager"):
        # Some families change their configuration as they are built.
        model = tiny_model(copy.deepcopy(config))
        _eager(model, [0] * PROMPTS[-1])
    with stages.stage("save"):
        model.save_pretrained(folder)
        for name, content in byte_tokenizer_files(VOCABULARY).items():
            assert isinstance(content, bytes)
            (folder / name).write_bytes(content)
    return model


def _compare(eager: Any, artifact: Any, target: str, stages: _Stages) -> float:
    """The largest error of all phases; raises `_Mismatch` in the first that is wrong."""
    from edgec.runtime.program import LoadedProgram
    from edgec.runtime.sequence import Sequence

    with stages.stage("start"):
        sequence = Sequence(LoadedProgram(artifact, target.partition(":")[0]))
    ids = _tokens(eager.config, PROMPTS[-1] + FOLLOW_UP)
    errors = []
    for count in PROMPTS:
        with stages.stage(f"prefill {count}"):
            sequence.reset()
            step = sequence.extend(ids[:count])
            errors.append(_error(step.logits(), _eager(eager, ids[:count])))
    tokens, logits = ids[: PROMPTS[-1]], _eager(eager, ids[: PROMPTS[-1]])
    for number in range(1, DECODED + 1):
        with stages.stage(f"decode {number}"):
            token = step.token()
            _same_token(token, logits)
            tokens = [*tokens, token]
            step = sequence.step(token)
            logits = _eager(eager, tokens)
            errors.append(_error(step.logits(), logits))
    with stages.stage(f"follow-up {FOLLOW_UP}"):
        more = ids[PROMPTS[-1] :]
        step = sequence.extend(more)
        logits = _eager(eager, [*tokens, *more])
        errors.append(_error(step.logits(), logits))
        _same_token(step.token(), logits)
    return max(errors)


def _tokens(config: Any, count: int) -> list[int]:
    """Random bytes, none of them special: some families count positions without padding."""
    ids = [getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")]
    special = {i for item in ids for i in (item if isinstance(item, list) else [item])}
    allowed = [token for token in range(256) if token not in special]
    return [allowed[i] for i in np.random.default_rng(7).integers(0, len(allowed), count)]


def _eager(model: Any, ids: list[int]) -> npt.NDArray[np.float32]:
    """f32[V]: the logits after the last of `ids`, of one pass over all of them."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits
    last: npt.NDArray[np.float32] = logits[0, -1].float().numpy()
    if not np.isfinite(last).all():
        raise _Mismatch("eager gives logits that are not finite")
    return last


def _error(actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Largest difference in units of the expected logits' range."""
    if actual.shape != expected.shape:
        raise _Mismatch(f"logits {list(actual.shape)}, eager has {list(expected.shape)}")
    if not np.isfinite(actual).all():
        raise _Mismatch("logits that are not finite")
    error = float(np.abs(actual - expected).max() / (expected.max() - expected.min()))
    if error > TOLERANCE:
        raise _Mismatch(f"logits differ by {error:.1e} of their range")
    return error


def _same_token(token: int, expected: npt.NDArray[np.float32]) -> None:
    if token != int(expected.argmax()):
        raise _Mismatch(f"token {token}, eager has {int(expected.argmax())}")


def _line(failure: BaseException) -> str:
    text = " ".join(str(failure).split())
    kind = type(failure).__name__
    known = isinstance(failure, edgec.EdgecError | _Mismatch)
    return (text if known and text else f"{kind}: {text}")[:300]
