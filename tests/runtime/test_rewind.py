"""Going back, against a model in which each buffer is a list of what it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.fakes import make_manifest

from edgec.manifest import StateBuffer
from edgec.runtime.rewind import Rewind

MULTIPLE, RING, WINDOW = 8, 40, 9
ATTENTION = StateBuffer("a", "attention", (512, 2), "f16")
COPIED = StateBuffer("w", "window", (RING, 2), "f32", WINDOW, WINDOW)
UNCOPIED = StateBuffer("u", "window", (RING + 8, 2), "f32", WINDOW + 4, 0)
RECURRENT = StateBuffer("r", "recurrent", (3, 2), "f32")
CONV = StateBuffer("c", "conv", (4, 2), "f32")
KINDS: tuple[tuple[StateBuffer, ...], ...] = (
    (ATTENTION,), (COPIED,), (UNCOPIED,), (RECURRENT,), (ATTENTION, COPIED),
    (COPIED, UNCOPIED), (ATTENTION, CONV, RECURRENT), (ATTENTION, COPIED, RECURRENT),
)  # fmt: skip


@dataclass
class Buffer:
    """A buffer's content: a token in each row, or all tokens it has seen."""

    spec: StateBuffer
    rows: dict[int, int] = field(default_factory=dict)
    seen: tuple[int, ...] = ()

    def write(self, start: int, tokens: list[int], padding: int) -> None:
        for at, token in enumerate([*tokens, *[-1] * padding], start):
            self.rows[at % self.spec.shape[0]] = token
        self.seen += tuple(tokens)

    def right(self, tokens: list[int]) -> bool:
        """Whether the next token finds what it would after these tokens alone."""
        if not self.spec.has_rows:
            return self.seen == tuple(tokens)
        first = max(0, len(tokens) - self.spec.window + 1) if self.spec.window else 0
        return all(
            self.rows.get(p % self.spec.shape[0]) == tokens[p] for p in range(first, len(tokens))
        )

    def copy(self, length: int) -> Any:
        first = max(0, length - self.spec.checkpoint_rows)
        at = [p % self.spec.shape[0] for p in range(first, length)]
        return ({row: self.rows[row] for row in at if row in self.rows}, self.seen)

    def put_back(self, copy: Any) -> None:
        if self.spec.has_rows:
            self.rows |= copy[0] if self.spec.checkpoint_rows else {}
        else:
            self.seen = copy[1]

    def zero(self) -> None:
        self.rows, self.seen = {}, ()


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_the_lengths_are_those_at_which_every_buffer_is_right(data: st.DataObject) -> None:
    specs = data.draw(st.sampled_from(KINDS))
    rewind = Rewind(make_manifest(context=512, multiple_of=MULTIPLE, state=specs))
    buffers = [Buffer(spec) for spec in specs]
    copies: dict[int, list[Any]] = {}
    held: list[int] = []
    names, exact = iter(range(10**6)), 0  # a token is like no other
    for _ in range(data.draw(st.integers(1, 14))):
        act = data.draw(
            st.sampled_from(["prompt", "prompt", "steps", "checkpoint", "back", "return"])
        )
        if act in ("prompt", "steps"):
            # A chunk at most: a ring has room for it.
            for _ in range(data.draw(st.integers(1, 3))):
                count = data.draw(st.integers(1, 3 * MULTIPLE)) if act == "prompt" else 1
                tokens = [next(names) for _ in range(count)]
                padding = -count % MULTIPLE if act == "prompt" else 0
                rewind.wrote(len(held) + count + padding)
                for buffer in buffers:
                    buffer.write(len(held), tokens, padding)
                held += tokens
        elif act == "checkpoint" and held and rewind.checkpoint_bytes:
            copies[len(held)] = [buffer.copy(len(held)) for buffer in buffers]
            rewind.checkpoints = tuple(sorted({*rewind.checkpoints, len(held)}))
        elif act in ("back", "return"):
            lengths = range(len(held) + 1) if act == "back" else [*rewind.checkpoints, len(held)]
            ways = [n for n in lengths if rewind.cost(n, len(held)) is not None]
            length = data.draw(st.sampled_from(ways))
            if restored := rewind.cost(length, len(held)) != 0:
                for buffer, copy in zip(buffers, copies[length], strict=True):
                    buffer.put_back(copy)
                exact = length
            held, exact = held[:length], exact if length else 0
            rewind.went_back(length, restored=restored)
            copies = {n: copy for n, copy in copies.items() if n <= length}
        assert all(buffer.right(held) for buffer in buffers)
        assert set(rewind.checkpoints) <= set(copies)
        for length in range(len(held) + 1):
            free = rewind.cost(length, len(held)) == 0
            right = all(buffer.right(held[:length]) for buffer in buffers)
            # Nothing is refused that could be had, but what a checkpoint put back besides its own
            # length. A state without rows is never empty by itself.
            assert right if free else not (right and exact <= length and length)


@given(st.data())
@settings(deadline=None)
def test_what_is_reused_can_be_gone_back_to(data: st.DataObject) -> None:
    specs = data.draw(st.sampled_from(KINDS))
    rewind = Rewind(make_manifest(context=512, multiple_of=MULTIPLE, state=specs))
    held = data.draw(st.integers(1, 200))
    for end in range(1, held + 1):
        rewind.wrote(end)
    rewind.decoded = data.draw(st.booleans())
    if rewind.checkpoint_bytes:
        rewind.checkpoints = tuple(sorted(data.draw(st.sets(st.integers(1, held), max_size=4))))
    common = data.draw(st.integers(0, held))
    copied, reused = rewind.copyable(common, held), rewind.reusable(common, held)
    assert 0 <= copied <= reused <= common
    assert not copied or rewind.cost(copied, held) == 0
    assert not reused or rewind.cost(reused, held) is not None
    # In whole blocks, or where an answer or a checkpoint ended.
    ends = {*rewind.checkpoints, *([held] if rewind.decoded else [])}
    assert reused % MULTIPLE == 0 or reused in ends
    if not copied and common:
        usable = [c for c in rewind.checkpoints if c <= common]
        assert reused == max((c for c in usable if rewind.cost(c, held) is not None), default=0)


@pytest.mark.parametrize(
    ("specs", "size"),
    [
        ((ATTENTION,), 0),
        ((COPIED,), WINDOW * 2 * 4),
        ((UNCOPIED,), 0),
        ((ATTENTION, COPIED, RECURRENT), (WINDOW + 3) * 2 * 4),
    ],
)
def test_the_cost_is_what_a_checkpoint_copies(specs: tuple[StateBuffer, ...], size: int) -> None:
    rewind = Rewind(make_manifest(context=512, multiple_of=MULTIPLE, state=specs))
    assert rewind.checkpoint_bytes == size
    rewind.wrote(400)
    rewind.checkpoints = (20, 100) if size else ()
    assert rewind.cost(400, 400) == 0
    assert rewind.cost(100, 400) == (0 if specs == (ATTENTION,) else size or None)
    assert rewind.cost(99, 400) == (0 if specs == (ATTENTION,) else None)
    rewind.went_back(100, restored=True)
    assert rewind.checkpoints == ((20, 100) if size else ())
    rewind.wrote(110)
    # What a checkpoint put back of a ring stays there for a while.
    assert rewind.cost(100, 110) == (0 if rewind.has_rows else size)
    rewind.went_back(50)
    assert rewind.checkpoints == ((20,) if size else ())


def test_positions_that_change_with_the_length() -> None:
    rewind = Rewind(make_manifest(switches=(64, 100)))
    assert not rewind.differs(70, 0)
    rewind.passed = rewind.passes(64)
    assert not rewind.differs(64, 10) and rewind.differs(65, 10)
    rewind.passed = rewind.passes(101)
    assert rewind.differs(100, 99) and not rewind.differs(200, 101)
