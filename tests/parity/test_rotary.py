"""Every rotary embedding of transformers against eager, around each length at which one changes.

What a sequence holds after n tokens is what one eager pass over all n gives: that is what Phi-3's
`generate` does too, which computes the prompt again once it passes the original length.
Most cases run edgec's form of the model in torch. Compiled are a few; `slow` has more of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.runtime.fakes import make_manifest
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edgec import Session
from edgec.artifact import Artifact
from edgec.models.call import call
from edgec.models.plugs import attention, rotary
from edgec.models.plugs.discovery import Discovery
from edgec.models.plugs.state import SequenceState
from edgec.models.sources.byte_tokenizer import byte_tokenizer_files
from edgec.runtime import Sequence
from edgec.runtime.sequence import step_together

TOLERANCE = 2e-5  # of the range of the logits
ORIGINAL, CONTEXT, CHUNK = 64, 256, 64
SHORT, LONG = [1 + i / 8 for i in range(8)], [2.0 + i for i in range(8)]

# What each type needs besides `rope_theta`, for heads of 16.
TYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": ORIGINAL},
    "longrope": {
        "short_factor": SHORT,
        "long_factor": LONG,
        "original_max_position_embeddings": ORIGINAL,
    },
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "proportional": {"partial_rotary_factor": 0.5},
}
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 288,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
}
GEMMA = {
    "num_hidden_layers": 2,
    "head_dim": 16,
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention"],
}


def new_form(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **TYPES[kind], **more}}


def old_form(kind: str, key: str = "rope_type", **more: Any) -> dict[str, Any]:
    scaling = {key: kind, **TYPES[kind], **more}
    return {"rope_theta": 10000.0, "rope_scaling": scaling if kind != "default" else None}


def by_layer(sliding: str, full: str) -> dict[str, Any]:
    given = {"sliding_attention": new_form(sliding), "full_attention": new_form(full)}
    return GEMMA | {"rope_parameters": {k: v["rope_parameters"] for k, v in given.items()}}


PHI3 = {"original_max_position_embeddings": ORIGINAL, "rope_theta": 10000.0}
SU = {"rope_scaling": {"type": "su", **TYPES["longrope"]}}
PARTIAL = {"partial_rotary_factor": 0.75, "rope_theta": 10000.0}
PHI4 = {
    "type": "longrope",
    "short_factor": SHORT[:6],
    "long_factor": LONG[:6],
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{kind}-new": ("llama", new_form(kind)) for kind in TYPES},
    **{f"{kind}-old": ("llama", old_form(kind, "type")) for kind in TYPES},
    **{f"{kind}-sliding": ("gemma3_text", by_layer(kind, "default")) for kind in TYPES},
    **{f"{kind}-full": ("gemma3_text", by_layer("default", kind)) for kind in TYPES},
    "longrope-twice": (
        "gemma3_text",
        by_layer("longrope", "longrope")
        | {
            "rope_parameters": {
                "sliding_attention": new_form("longrope")["rope_parameters"],
                "full_attention": new_form("longrope", original_max_position_embeddings=40)[
                    "rope_parameters"
                ],
            }
        },
    ),
    "attention-factor": ("llama", new_form("longrope", attention_factor=1.7)),
    "factor": ("llama", new_form("longrope", factor=32.0)),
    "mscale": ("llama", new_form("yarn", mscale=0.9, mscale_all_dim=0.4)),
    "no-original": ("llama", {"rope_scaling": {"type": "yarn", "factor": 4.0}}),
    "phi3-su": ("phi3", PHI3 | SU),
    "phi3-default": ("phi3", PHI3),
    "phi4-mini": ("phi3", PHI3 | PARTIAL | {"rope_scaling": PHI4}),
    "phimoe": (
        "phimoe",
        {"num_local_experts": 4}
        | new_form("longrope", short_mscale=1.1, long_mscale=1.4),
    ),
}  # fmt: skip
COMPILED = ("phi4-mini",)
COMPILED_SLOW = [name for name in CASES if name not in COMPILED]


def build(name: str, **more: Any) -> Any:
    """Transformers' eager model of a case."""
    family, given = CASES[name]
    config = AutoConfig.for_model(family, **copy.deepcopy(SIZES | given | more))
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 256
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@dataclass
class TorchOutput:
    scores: npt.NDArray[np.float32]

    def wait(self) -> None:
        pass

    def token(self) -> int:
        return int(self.scores.argmax())

    def logits(self) -> npt.NDArray[np.float32]:
        return self.scores


class TorchState(dict[str, torch.Tensor]):
    nbytes = 0

    def zero(self) -> None:
        for buffer in self.values():
            buffer.zero_()

    def free(self) -> None:
        self.clear()


class TorchProgram:
    """What is exported, run by torch as it stands."""

    def __init__(self, eager: Any, context: int = CONTEXT) -> None:
        attention.install()
        self.model = AutoModelForCausalLM.from_config(
            copy.deepcopy(eager.config), attn_implementation=attention.IMPLEMENTATION
        ).eval()
        self.model.load_state_dict(eager.state_dict())
        switches = tuple(n for n in rotary.add_long_frequencies(self.model) if n < context)
        self.manifest = make_manifest(context=context, longest=CHUNK, switches=switches)
        self.capacity = context + 32
        self.discovery = Discovery()
        tokens, zero = torch.zeros(1, 32, dtype=torch.int32), torch.tensor(0)
        with torch.no_grad():
            state = SequenceState(zero, self.capacity, self.discovery, None, torch.tensor(32))
            call(self.model, tokens, torch.arange(32)[None], state)

    def create_state(self) -> TorchState:
        kept = self.discovery.state.items()
        return TorchState({n: torch.zeros(self.capacity, *k.shape) for n, k in kept})

    def prefill(
        self, tokens: npt.NDArray[np.int32], start: int, length: int, state: TorchState, total: int
    ) -> TorchOutput:
        return self._run(tokens, start, torch.tensor(length), state, total)

    def decode(self, steps: Any) -> list[TorchOutput]:
        return [
            self._run(np.array([[t if isinstance(t, int) else t.token()]]), at, None, state, at + 1)
            for t, at, state in steps
        ]

    def _run(
        self,
        tokens: npt.NDArray[np.int32],
        start: int,
        length: torch.Tensor | None,
        buffers: TorchState,
        total: int,
    ) -> TorchOutput:
        known = torch.tensor(total) if self.manifest.model.rope_switches else None
        state = SequenceState(
            torch.tensor(start), self.capacity, self.discovery, dict(buffers), length, 32, known
        )
        positions = (torch.arange(tokens.shape[1]) + start)[None]
        with torch.no_grad():
            logits = call(self.model, torch.from_numpy(tokens).int(), positions, state)
        last = 0 if length is None else int(length) - 1
        return TorchOutput(logits[0, last].float().numpy())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are slower with more, the more so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def eager_logits(model: Any, ids: list[int]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        logits: npt.NDArray[np.float32] = model(torch.tensor([ids])).logits[0, -1].float().numpy()
    return logits


def play(sequence: Sequence, eager: Any, error: Callable[..., float]) -> None:
    """Prompts of many lengths, decodes and follow-ups that pass a length, and the way back."""
    ids = torch.randint(0, 256, (220,), generator=torch.Generator().manual_seed(1)).tolist()

    def same(logits: npt.NDArray[np.float32], tokens: list[int], what: str) -> None:
        assert error(logits, eager_logits(eager, tokens)) <= TOLERANCE, what

    for count in (1, 31, 32, 33, 40, 41, 63, 64, 65, 96, 129, 200):
        sequence.reset()
        same(sequence.extend(ids[:count]).logits(), ids[:count], f"prompt of {count}")
    sequence.reset()
    sequence.extend(ids[:38])
    for count in (*range(39, 43), *range(63, 68)):
        held = sequence.length
        if count - held > 1:
            sequence.extend(ids[held : count - 1])
        same(sequence.step(ids[count - 1]).logits(), ids[:count], f"decode {count}")
    same(sequence.extend(ids[67:90]).logits(), ids[:90], "follow-up")
    if sequence.can_truncate(30):
        sequence.truncate(30)
        same(sequence.step(ids[30]).logits(), ids[:31], "taken back")
        same(sequence.extend(ids[31:100]).logits(), ids[:100], "follow-up past the length")


def test_all_types_of_transformers_are_here() -> None:
    assert set(TYPES) == {"default", *ROPE_INIT_FUNCTIONS}


@pytest.mark.parametrize("name", CASES)
def test_in_torch(name: str, relative_error: Callable[..., float]) -> None:
    eager = build(name)
    program = TorchProgram(eager)
    play(Sequence(program), eager, relative_error)


def test_the_factors_tell() -> None:
    """With the wrong ones the logits are far off, so what these tests say can be trusted."""
    eager = build("longrope-new")
    program = TorchProgram(eager)
    ids = list(range(80))
    state = program.create_state()
    first = program.prefill(np.array([ids[:64]], np.int32), 0, 64, state, 64)
    block = np.array([ids[64:] + [0] * 16], np.int32)
    second = program.prefill(block, 64, 16, state, 80)
    assert np.abs(first.logits() - eager_logits(eager, ids[:64])).max() < 1e-3
    assert np.abs(second.logits() - eager_logits(eager, ids)).max() > 0.1


def compile_case(
    name: str, folder: Path, compile_once: Callable[..., Artifact], **options: Any
) -> tuple[Any, Artifact]:
    eager = build(name)
    eager.save_pretrained(folder)
    for file, content in byte_tokenizer_files(288).items():
        if not (folder / file).exists():
            assert isinstance(content, bytes)
            (folder / file).write_bytes(content)
    settings = {"ctx_size": CONTEXT, "chunk_size": CHUNK} | options
    return eager, compile_once(f"rotary-{folder.name}", str(folder), **settings)


@pytest.mark.parametrize(
    "name", [*COMPILED, *(pytest.param(name, marks=pytest.mark.slow) for name in COMPILED_SLOW)]
)
def test_compiled(
    name: str,
    tmp_path: Path,
    compile_once: Callable[..., Artifact],
    relative_error: Callable[..., float],
) -> None:
    eager, artifact = compile_case(name, tmp_path, compile_once)
    session = Session(artifact)
    longrope = "long_factor" in repr(CASES[name])
    assert bool(artifact.manifest.model.rope_switches) == longrope
    play(session.sequence, eager, relative_error)


@pytest.mark.slow
def test_a_batch_on_both_sides_of_the_length(
    tmp_path: Path, compile_once: Callable[..., Artifact], relative_error: Callable[..., float]
) -> None:
    eager, artifact = compile_case("phi3-su", tmp_path, compile_once, batch=(1, 2))
    program = Session(artifact).model.program
    a, b = Sequence(program), Sequence(program)
    ids = torch.randint(0, 256, (100,), generator=torch.Generator().manual_seed(2)).tolist()
    a.extend(ids[:62]), b.extend(ids[:75])  # fmt: skip
    for count in range(5):
        steps = step_together([(a, ids[62 + count]), (b, ids[75 + count])])
        for step, length in zip(steps, (63 + count, 76 + count), strict=True):
            assert relative_error(step.logits(), eager_logits(eager, ids[:length])) <= TOLERANCE


@pytest.mark.slow
def test_a_context_within_the_length_has_one_form(
    tmp_path: Path, compile_once: Callable[..., Artifact], relative_error: Callable[..., float]
) -> None:
    """As Phi-3.5 has it by default: no total is asked for, and padding past it is nothing."""
    eager, artifact = compile_case("phi3-su", tmp_path, compile_once, ctx_size=ORIGINAL)
    assert artifact.manifest.model.rope_switches == ()
    names = [spec.name for spec in artifact.manifest.entry_points["prefill"].inputs]
    assert names == ["tokens", "start", "length", "next"]
    session, ids = Session(artifact), list(range(7, 71))
    for count in (1, 33, 63, 64):
        session.reset()
        logits = session.prefill(ids[:count])
        assert relative_error(logits, eager_logits(eager, ids[:count])) <= TOLERANCE
    session.reset()
    session.prefill(ids[:50])
    logits = session.prefill(ids[50:60])
    assert relative_error(logits, eager_logits(eager, ids[:60])) <= TOLERANCE
