from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edgec.runtime.stopping import StopStrings

# Few letters: stop strings then overlap each other and the text.
letters = st.text("abc", max_size=40)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)


def run(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    matcher, shown = StopStrings(stops), []
    for piece in pieces:
        text, stopped = matcher.feed(piece)
        shown.append(text)
        if stopped:
            return shown, True
    return [*shown, matcher.finish()], False


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """By the definition: the stop string that ends first; of those, the longest."""
    for end in range(1, len(text) + 1):
        starts = [end - len(s) for s in stops if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(letters, stop_lists, st.lists(st.integers(0, 40), max_size=8))
def test_the_result_does_not_depend_on_how_text_is_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    edges = sorted({0, len(text), *(min(c, len(text)) for c in cuts)})
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    shown, stopped = run(pieces, stops)
    assert ("".join(shown), stopped) == expected(text, stops)


@given(letters, stop_lists)
def test_no_part_of_a_stop_string_is_ever_shown(text: str, stops: list[str]) -> None:
    shown, stopped = run(list(text), stops)
    whole = "".join(shown)
    assert not any(stop in whole for stop in stops)
    if stopped:
        # What was shown is the text up to a stop string, so none of it had to be taken back.
        assert any(text.startswith(whole + stop) for stop in stops)
    else:
        assert whole == text


@given(letters, stop_lists)
def test_no_more_is_held_back_than_could_be_a_beginning(text: str, stops: list[str]) -> None:
    matcher = StopStrings(stops)
    shown, stopped = matcher.feed(text)
    if not stopped:
        held = matcher.finish()
        assert shown + held == text
        assert not held or any(s.startswith(held) and s != held for s in stops)
