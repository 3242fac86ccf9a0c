"""Positions, padding, phases and poisoning, on a program whose answers depend on all its input."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.fakes import FakeProgram, make_manifest

from edgec.errors import DeviceError, InputError
from edgec.runtime import Sequence, SequencePhase
from edgec.runtime.sequence import step_together

P = SequencePhase
MakeProgram = Callable[..., FakeProgram]


def ids(count: int, first: int = 1) -> list[int]:
    return [(first + 7 * i) % 250 for i in range(count)]


def fresh(tokens: list[int], **manifest: Any) -> np.ndarray:
    """The logits after one prefill of `tokens` in a new sequence."""
    return Sequence(FakeProgram(make_manifest(longest=256, **manifest))).extend(tokens).logits()


@pytest.mark.parametrize(
    ("count", "calls"),
    [
        (1, [(0, 1, 32)]),
        (31, [(0, 31, 32)]),
        (32, [(0, 32, 32)]),
        (33, [(0, 33, 64)]),
        (64, [(0, 64, 64)]),
        (65, [(0, 64, 64), (64, 1, 32)]),
        (150, [(0, 64, 64), (64, 64, 64), (128, 22, 32)]),
    ],
)
def test_prompts_are_padded_and_cut_into_chunks(
    make_program: MakeProgram, count: int, calls: list[tuple[int, int, int]]
) -> None:
    engine = make_program()
    sequence = Sequence(engine)
    logits = sequence.extend(ids(count)).logits()
    assert [call[1:] for call in engine.calls] == calls
    assert sequence.tokens == tuple(ids(count))
    np.testing.assert_array_equal(logits, fresh(ids(count)))


@pytest.mark.parametrize(("count", "kept"), [(20, 0), (32, 0), (33, 32), (40, 32), (65, 64)])
@pytest.mark.parametrize("kind", ["attention", "recurrent"])
def test_a_prompt_that_comes_again_is_computed_in_the_same_blocks(
    make_program: MakeProgram, kind: str, count: int, kept: int
) -> None:
    """Its last token never as a decode step: the sums there have another order."""
    engine = make_program(kind=kind)
    sequence = Sequence(engine)
    sequence.extend(ids(count), checkpoint=True).token()
    sequence.step(5)
    assert sequence.keep(ids(count)) == kept
    engine.calls.clear()
    logits = sequence.extend(ids(count)[kept:], checkpoint=True).logits()
    assert engine.calls == [("prefill", kept, count - kept, 32)]
    alone = Sequence(make_program(kind=kind))
    np.testing.assert_array_equal(logits, alone.extend(ids(count)).logits())
    assert sequence.keep(ids(count)) == kept


def test_an_answer_is_gone_on_from_where_nothing_else_is_there(make_program: MakeProgram) -> None:
    """A state without rows is kept after its last token, if that is an answer's, or before."""
    sequence = Sequence(make_program(kind="recurrent"))
    sequence.extend(ids(40), checkpoint=True)
    longer = [*ids(40), 3, 4]
    assert sequence.reusable(longer) == 32
    sequence.step(3)
    assert sequence.reusable(longer) == sequence.copyable(longer) == 41
    # A follow-up of less than a block: the checkpoint is where the answer ended.
    sequence.extend([4, 5], checkpoint=True)
    sequence.step(6)
    assert sequence.keep([*longer, 5]) == 41


@given(
    parts=st.lists(st.tuples(st.booleans(), st.integers(1, 70)), min_size=1, max_size=5),
    kind=st.sampled_from(["attention", "recurrent"]),
)
@settings(deadline=None)
def test_any_mix_of_prefill_and_decode_is_one_long_prefill(
    parts: list[tuple[bool, int]], kind: str
) -> None:
    sequence = Sequence(FakeProgram(make_manifest(context=512, kind=kind)))
    held: list[int] = []
    for decode, count in parts:
        new = ids(count, len(held))
        if decode:
            for token in new:
                step = sequence.step(token)
        else:
            step = sequence.extend(new)
        held += new
        if kind == "attention":
            np.testing.assert_array_equal(step.logits(), fresh(held, context=512))
    assert sequence.tokens == tuple(held)


def test_truncation_forgets(make_program: MakeProgram) -> None:
    sequence = Sequence(make_program())
    sequence.extend(ids(40))
    sequence.truncate(13)
    assert sequence.tokens == tuple(ids(40)[:13])
    logits = sequence.extend([5, 6]).logits()
    np.testing.assert_array_equal(logits, fresh([*ids(40)[:13], 5, 6]))
    with pytest.raises(InputError, match="holds 15"):
        sequence.truncate(16)


def test_a_state_without_rows_is_not_truncated(make_program: MakeProgram) -> None:
    sequence = Sequence(make_program(kind="recurrent"))
    sequence.extend(ids(4))
    sequence.truncate(4)
    with pytest.raises(InputError, match="rolled back"):
        sequence.truncate(3)
    assert sequence.length == 4


WINDOW, LONGEST = 20, 64  # a ring of 96 rows


def ring() -> Sequence:
    return Sequence(FakeProgram(make_manifest(context=4096, longest=LONGEST, window=WINDOW)))


def seen(sequence: Sequence) -> Any:
    """The answer to one token more; it depends on the whole window."""
    return sequence.step(9).logits()


def alone(tokens: Any) -> Any:
    """The same in a new sequence."""
    sequence = ring()
    sequence.extend(tokens)
    return seen(sequence)


def test_of_a_ring_so_many_tokens_can_be_taken_back() -> None:
    """A chunk and what rounding leaves, less the padding that was written; and all of them."""
    sequence = ring()
    sequence.extend(ids(300))  # in calls of 64 and a last one of 64, padding included: to 320
    kept = 320 - 96 + WINDOW - 1
    assert not sequence.can_truncate(kept - 1)
    with pytest.raises(InputError, match=f"cannot be rolled back to {kept - 1} tokens"):
        sequence.truncate(kept - 1)
    assert sequence.tokens == tuple(ids(300))
    sequence.truncate(kept)
    assert np.array_equal(seen(sequence), alone(ids(kept)))
    sequence.truncate(0)
    sequence.extend(ids(7, 3))
    assert np.array_equal(seen(sequence), alone(ids(7, 3)))
    other = ring()
    other.extend(ids(300))
    sequence.reset()
    with pytest.raises(InputError, match="cannot be taken over"):
        sequence.copy_prefix(other, kept - 1)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_ring_never_answers_from_rows_that_are_lost(data: st.DataObject) -> None:
    """Whatever is done with a sequence, it refuses, or answers as one that only did the rest."""
    sequence, path = ring(), Path(tempfile.mkdtemp()) / "saved"
    for _ in range(data.draw(st.integers(1, 12))):
        held = list(sequence.tokens)
        act = data.draw(st.sampled_from(["extend", "steps", "keep", "checkpoint", "move", "file"]))
        if act == "extend":
            sequence.extend(ids(data.draw(st.integers(1, 150)), len(held)))
        elif act == "steps":
            for token in ids(data.draw(st.integers(1, 150)), len(held) + 1):
                sequence.step(token)
        elif act == "keep":
            prompt = [*held[: data.draw(st.integers(0, len(held)))], 251]
            kept = sequence.keep(prompt)
            assert list(sequence.tokens) == prompt[:kept]
        elif act == "checkpoint" and held:
            sequence.checkpoint()
        elif act == "move":
            other, length = ring(), data.draw(st.integers(0, len(held)))
            if sequence.can_truncate(length):
                other.copy_prefix(sequence, length)
                sequence = other
        elif act == "file" and held:
            sequence.save(path)
            sequence = ring()
            sequence.restore(path)
    held = list(sequence.tokens)
    if held:
        assert np.array_equal(seen(sequence), alone(held))
    shutil.rmtree(path.parent)


def test_a_checkpoint_of_a_ring_outlives_a_long_answer() -> None:
    sequence = ring()
    sequence.extend(ids(200))
    sequence.checkpoint()
    for token in ids(150, 3):
        sequence.step(token)
    assert sequence.keep([*ids(200), 1, 2]) == 200
    assert np.array_equal(seen(sequence), alone(ids(200)))
    assert sequence.keep([*ids(199), 1, 2]) == 0
    # Before a checkpoint the tokens it was of are others.
    sequence = ring()
    sequence.extend(ids(20))
    sequence.checkpoint()
    sequence.truncate(10)
    sequence.extend(ids(300, 2))
    assert sequence.keep([*ids(10), *ids(10, 2), 3]) == 0


def test_the_greedy_token_is_fed_back_on_the_device(make_program: MakeProgram) -> None:
    sequence = Sequence(make_program())
    step = sequence.extend(ids(3))
    for _ in range(4):
        step = sequence.step(step.token())
    assert sequence.counters[P.DECODE].bytes == 4 * 4 - 4  # tokens back; the last was not read
    other = 1 if step.token() != 1 else 2
    before = sequence.counters[P.DECODE].bytes
    sequence.step(other)
    assert sequence.counters[P.DECODE].bytes == before + 4


def test_the_context_is_used_up_to_its_end(make_program: MakeProgram) -> None:
    sequence = Sequence(make_program(context=100))
    sequence.extend(ids(97))
    sequence.extend([1, 2])  # padded to 32 rows, past the context
    sequence.step(3)
    with pytest.raises(InputError, match="1 tokens after 100 are beyond the context of 100"):
        sequence.step(4)
    assert sequence.phase is P.DECODE
    assert sequence.length == 100


@pytest.mark.parametrize("tokens", [[-1], [1, 259], []])
def test_bad_tokens_change_nothing(make_program: MakeProgram, tokens: list[int]) -> None:
    engine = make_program()
    sequence = Sequence(engine)
    with pytest.raises(InputError, match="token"):
        sequence.extend(tokens)
    assert sequence.phase is P.CREATED
    assert engine.calls == []


def test_phases_and_their_counters(make_program: MakeProgram) -> None:
    sequence = Sequence(make_program())
    seen = [sequence.phase]
    sequence.extend(ids(70)).token()
    seen.append(sequence.phase)
    sequence.step(1)
    sequence.step(2).logits()
    seen.append(sequence.phase)
    sequence.pause()
    seen.append(sequence.phase)
    sequence.extend(ids(5))
    seen.append(sequence.phase)
    sequence.retire()
    seen.append(sequence.phase)
    assert seen == [P.CREATED, P.PREFILL, P.DECODE, P.INACTIVE, P.FOLLOW_UP_PREFILL, P.RETIRED]

    counters = sequence.counters
    counts = {p: (c.entries, c.calls, c.tokens, c.padded_tokens) for p, c in counters.items()}
    assert counts == {
        P.CREATED: (1, 0, 0, 0),
        P.PREFILL: (1, 2, 70, 96),
        P.DECODE: (1, 2, 2, 2),
        P.INACTIVE: (1, 0, 0, 0),
        P.FOLLOW_UP_PREFILL: (1, 1, 5, 32),
        P.RETIRED: (1, 0, 0, 0),
        P.POISONED: (0, 0, 0, 0),
    }
    assert counters[P.PREFILL].bytes == 96 * 4 + 4
    assert counters[P.DECODE].bytes == 2 * 4 + 259 * 4
    assert all(counters[p].seconds > 0 for p in (P.PREFILL, P.DECODE, P.INACTIVE))


def test_retiring_frees_the_state_and_is_final(make_program: MakeProgram) -> None:
    sequence = Sequence(make_program())
    sequence.extend(ids(3))
    assert sequence.state_bytes == 4 * 288
    sequence.retire()
    sequence.retire()
    assert sequence.state_bytes == 0
    for act in (lambda: sequence.extend([1]), lambda: sequence.step(1), sequence.reset):
        with pytest.raises(DeviceError, match="retired"):
            act()


@pytest.mark.parametrize("fail_at", [3, 70, 100])
def test_a_failed_step_poisons_until_reset(make_program: MakeProgram, fail_at: int) -> None:
    engine = make_program(fail_at=fail_at)
    sequence, other = Sequence(engine), Sequence(engine)
    with pytest.raises(RuntimeError, match="device lost"):
        sequence.extend(ids(99))
        for token in range(5):
            sequence.step(token)
    assert sequence.phase is P.POISONED
    for act in (
        lambda: sequence.extend([1]),
        lambda: sequence.step(1),
        lambda: sequence.truncate(0),
    ):
        with pytest.raises(DeviceError, match="poisoned"):
            act()
    engine.fail_at = None
    np.testing.assert_array_equal(other.extend(ids(5)).logits(), fresh(ids(5)))
    sequence.reset()
    assert (sequence.phase, sequence.length) == (P.CREATED, 0)
    np.testing.assert_array_equal(sequence.extend(ids(99)).logits(), fresh(ids(99)))


def test_an_interrupt_loses_only_the_tokens_of_its_step(make_program: MakeProgram) -> None:
    engine = make_program(fail_at=6)
    engine.error = KeyboardInterrupt()
    sequence = Sequence(engine)
    sequence.extend(ids(6))
    with pytest.raises(KeyboardInterrupt):
        sequence.step(9)
    assert (sequence.phase, sequence.length) == (P.INACTIVE, 6)
    engine.fail_at = None
    np.testing.assert_array_equal(sequence.step(8).logits(), fresh([*ids(6), 8]))


def test_an_interrupt_poisons_a_state_that_may_have_moved_on(make_program: MakeProgram) -> None:
    engine = make_program(fail_at=0, kind="recurrent")
    engine.error = KeyboardInterrupt()
    sequence = Sequence(engine)
    with pytest.raises(KeyboardInterrupt):
        sequence.extend(ids(6))
    assert sequence.phase is P.POISONED


@given(
    parts=st.lists(
        st.tuples(
            st.sampled_from(["decode", "feed", "prefill", "back", "keep"]), st.integers(1, 70)
        ),
        min_size=1,
        max_size=8,
    ),
    kind=st.sampled_from(["attention", "recurrent"]),
    switches=st.sampled_from([(64,), (40, 90)]),
)
@settings(deadline=None)
def test_rows_are_those_of_the_total_length(
    parts: list[tuple[str, int]], kind: str, switches: tuple[int, ...]
) -> None:
    """Past a switch of the rotary embedding all tokens are computed again, and when shorter too."""
    sequence = Sequence(FakeProgram(make_manifest(context=640, kind=kind, switches=switches)))
    held: list[int] = []
    step = None
    for what, count in parts:
        new = ids(count, len(held))
        if what in ("back", "keep"):
            if what == "keep":
                held = held[: max(1, len(held) - count)] + new
                step = sequence.extend(held[sequence.keep(held) :])
            elif sequence.can_truncate(shorter := max(0, len(held) - count)):
                sequence.truncate(shorter)
                held, step = held[:shorter], None
        elif what == "prefill":
            held, step = held + new, sequence.extend(new)
        else:
            for token in new[:9]:
                feed = step if what == "feed" and step is not None else token
                held.append(feed.token() if not isinstance(feed, int) else token)
                step = sequence.step(feed)
        if step is not None and len(held) > 0:
            np.testing.assert_array_equal(
                step.logits(), fresh(held, context=640, switches=switches, kind=kind)
            )
    assert sequence.tokens == tuple(held)


def test_a_chunk_before_the_switch_has_the_rows_of_the_whole_prompt(
    make_program: MakeProgram,
) -> None:
    """And what is cut off there does not go on with them as a short sequence."""
    program = make_program(switches=(100,))
    sequence = Sequence(program)
    chunks = sequence.chunks(ids(150))
    next(chunks)
    assert sequence.length == 64
    chunks.close()
    assert sequence.common(ids(64)) == 0 and sequence.common(ids(120)) == 64
    step = sequence.step(9)
    np.testing.assert_array_equal(step.logits(), fresh([*ids(64), 9], switches=(100,)))


def test_a_batch_in_which_one_passes_the_switch() -> None:
    program = FakeProgram(make_manifest(switches=(64,), batch_sizes=(1, 4)))
    lengths = (10, 64, 30, 64)
    sequences = [Sequence(program) for _ in lengths]
    steps = [s.extend(ids(n)) for s, n in zip(sequences, lengths, strict=True)]
    for _ in range(2):
        tokens = [step.token() for step in steps]
        steps = step_together(list(zip(sequences, steps, strict=True)))
    for sequence, step, token in zip(sequences, steps, tokens, strict=True):
        assert sequence.tokens[-1] == token
        np.testing.assert_array_equal(step.logits(), fresh(list(sequence.tokens), switches=(64,)))


def test_what_is_saved_has_the_rows_of_its_length(tmp_path: Path) -> None:
    program = FakeProgram(make_manifest(switches=(64,)))
    sequence, other = Sequence(program), Sequence(program)
    sequence.extend(ids(70)).token()
    sequence.truncate(50)
    other.copy_prefix(sequence, 32)
    assert other.reusable(ids(60)) == 0 and other.reusable(ids(80)) == 32
    sequence.save(tmp_path / "state")
    other.restore(tmp_path / "state")
    np.testing.assert_array_equal(other.step(3).logits(), fresh([*ids(50), 3], switches=(64,)))
