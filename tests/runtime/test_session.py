"""Sessions on a program in Python: text, reuse of the state, stopping, streaming."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.fakes import EOS, FakeProgram, make_manifest
from tokenizers import Tokenizer as HFTokenizer
from tokenizers.processors import TemplateProcessing
from transformers.generation.streamers import TextStreamer

from edgec.artifact import Artifact
from edgec.errors import DeviceError, InputError, RequestTimeout
from edgec.runtime import (
    Engine,
    GenerationConfig,
    GenerationResult,
    LoadedModel,
    SequencePhase,
    Session,
)
from edgec.runtime.generation import Generation
from edgec.runtime.tokenizer import Tokenizer

MakeSession = Callable[..., Session]


def ids(count: int, first: int = 1) -> list[int]:
    return [(first + 7 * i) % 250 for i in range(count)]


def program_of(session: Session) -> FakeProgram:
    engine = session.model.program
    assert isinstance(engine, FakeProgram)
    return engine


def test_generates_until_the_end_of_text(make_session: MakeSession) -> None:
    session = make_session("héllo", prompt="say")
    result = session.generate("say")
    assert result.text == "héllo"
    assert result.tokens == (*"héllo".encode(), EOS)
    assert result.finish_reason == "stop"
    assert dataclasses.astuple(result.usage) == (3, 7, 0)
    assert session.phase is SequencePhase.INACTIVE


def test_generates_up_to_a_limit(make_session: MakeSession) -> None:
    result = make_session("hello", prompt="say").generate("say", max_new_tokens=3)
    assert (result.text, result.finish_reason) == ("hel", "length")
    assert result.usage.completion_tokens == 3


def test_a_limit_within_a_character_shows_it_as_replacement(make_session: MakeSession) -> None:
    result = make_session("a€", prompt="say").generate("say", max_new_tokens=2)
    assert result.text == "a\ufffd"


def test_max_time_ends_a_generation(make_session: MakeSession) -> None:
    result = make_session("hello", prompt="say").generate("say", max_time=1e-9)
    assert (result.text, result.finish_reason) == ("h", "length")


@pytest.mark.parametrize("options", [{}, {"max_new_tokens": -1}, {"max_new_tokens": None}])
def test_without_a_limit_to_the_end_of_the_context(
    make_session: MakeSession, options: dict[str, Any]
) -> None:
    session = make_session(context=600)
    result = session.generate([1, 2, 3], ignore_eos=True, **options)
    assert (result.usage.completion_tokens, result.finish_reason) == (597, "length")
    with pytest.raises(InputError, match="prompt of 600 tokens and 1 new"):
        session.generate([1] * 600, **options)


def test_a_models_own_limit_gives_way_to_the_context(make_session: MakeSession) -> None:
    model = make_session(context=100).model
    defaults = dataclasses.replace(model.defaults, max_new_tokens=50, min_new_tokens=20)
    session = Session(dataclasses.replace(model, defaults=defaults))
    options: dict[str, Any] = {"ignore_eos": True}
    assert session.generate([1] * 10, **options).usage.completion_tokens == 50
    assert session.generate([1] * 90, **options).usage.completion_tokens == 10
    assert session.generate([1] * 10, max_new_tokens=-1, **options).usage.completion_tokens == 90
    with pytest.raises(InputError, match="90 tokens and 50 new ones"):
        session.generate([1] * 90, max_new_tokens=50)


def test_ignore_eos_goes_on(make_session: MakeSession) -> None:
    result = make_session("hi", prompt="say").generate("say", ignore_eos=True, max_new_tokens=9)
    assert result.usage.completion_tokens == 9
    assert result.text.startswith("hi")


def test_eos_token_id_can_be_given(make_session: MakeSession) -> None:
    result = make_session("hello", prompt="say").generate("say", eos_token_id=ord("l"))
    assert (result.tokens[-1], result.finish_reason) == (ord("l"), "stop")


def test_min_new_tokens_suppresses_the_end(make_session: MakeSession) -> None:
    session = make_session("hi", prompt="say")
    program_of(session).script.update(dict.fromkeys(range(5, 30), EOS))
    result = session.generate("say", min_new_tokens=8)
    assert EOS not in result.tokens[:8]
    assert (result.tokens[8:], result.finish_reason) == ((EOS,), "stop")


def test_the_repetition_penalty_counts_what_was_generated(make_session: MakeSession) -> None:
    session = make_session("bbbb", prompt="say")
    assert session.generate("say", max_new_tokens=4).text == "bbbb"
    # A score of 100 becomes less than those of tokens not seen yet.
    text = session.generate("say", max_new_tokens=4, repetition_penalty=1000.0).text
    assert text[0] == "b"
    assert "b" not in text[1:]


@pytest.mark.parametrize(
    ("stops", "text"),
    [("lo", "hel"), (["zz", "l"], "he"), ("hello", ""), ("ow", "hello world"), (" wo", "hello")],
)
def test_stop_strings_end_the_text(make_session: MakeSession, stops: Any, text: str) -> None:
    session = make_session("hello world", prompt="say")
    result = session.generate("say", stop_strings=stops)
    assert (result.text, result.finish_reason) == (text, "stop")


def test_a_special_token_as_a_stop_string(make_session: MakeSession) -> None:
    session = make_session(b"hi", prompt="say")
    program_of(session).script[5] = 257  # <|user|>, which has no text
    result = session.generate("say", stop_strings=["<|user|>"])
    assert (result.text, result.tokens[-1], result.finish_reason) == ("hi", 257, "stop")


@given(answer=st.text("ab€ ", max_size=30), stops=st.lists(st.text("ab€", min_size=1), max_size=3))
@settings(deadline=None)
def test_chunks_add_up_and_never_show_a_stop_string(
    tokenizer: Tokenizer, answer: str, stops: list[str]
) -> None:
    data = [*answer.encode(), EOS]
    engine = FakeProgram(make_manifest(), dict(enumerate(data, 3)))
    session = plain_session(engine, tokenizer)
    chunks = list(session.stream("say", stop_strings=stops, eos_token_id=EOS))
    text = "".join(chunk.text for chunk in chunks)
    assert not any(stop in text for stop in stops)
    assert answer.startswith(text)
    if not any(stop in answer for stop in stops):
        assert text == answer
    assert "\ufffd" not in text
    result = chunks[-1].result
    assert result is not None
    assert (result.text, result.tokens) == (text, tuple(chunk.token for chunk in chunks))
    assert result.finish_reason == chunks[-1].finish_reason == "stop"
    assert all(chunk.finish_reason is None and chunk.result is None for chunk in chunks[:-1])


def plain_session(engine: FakeProgram, tokenizer: Tokenizer) -> Session:
    artifact = Artifact(Path("fake"), engine.manifest)
    return Session(LoadedModel(artifact, engine, tokenizer, None, GenerationConfig()))


def same(a: GenerationResult, b: GenerationResult) -> bool:
    return a.tokens == b.tokens


def test_input_that_extends_the_state_computes_only_what_is_new(make_session: MakeSession) -> None:
    session, other = make_session(), make_session()
    prompt = ids(60)
    first = session.generate(prompt, max_new_tokens=10, ignore_eos=True)
    longer = [*prompt, *first.tokens, 40, 41, 42]
    program_of(session).calls.clear()
    second = session.generate(longer, max_new_tokens=5, ignore_eos=True)
    # All but the last token of the answer had been computed: 69, in whole blocks 64.
    assert second.usage.cached_tokens == 64
    assert program_of(session).calls[0] == ("prefill", 64, 9, 32)
    assert session.counters[SequencePhase.FOLLOW_UP_PREFILL].tokens == 9
    again = other.generate(longer, max_new_tokens=5, ignore_eos=True)
    assert again.usage.cached_tokens == 0
    assert same(second, again)


@pytest.mark.parametrize("kind", ["attention", "recurrent"])
@pytest.mark.parametrize(
    ("common", "length", "cached", "recurrent"),
    [
        (40, 40, 32, 32),  # one token is needed for its logits, and a block for the same ones
        (20, 20, 0, 0),
        (40, 60, 32, 32),
        (63, 70, 32, 32),
        (64, 70, 64, 32),
        (70, 70, 64, 64),
        (70, 99, 64, 64),
        (0, 50, 0, 0),
    ],
)
def test_reuse_never_changes_the_answer(
    make_session: MakeSession, kind: str, common: int, length: int, cached: int, recurrent: int
) -> None:
    session, new = make_session(kind=kind), make_session(kind=kind)
    session.generate(ids(max(common, 40)), max_new_tokens=3, ignore_eos=True)
    other = [*ids(common), *ids(length - common, 9)]
    result = session.generate(other, max_new_tokens=6, ignore_eos=True)
    assert same(result, new.generate(other, max_new_tokens=6, ignore_eos=True))
    # Without rows there is only what lay before the last block of the prompt.
    assert result.usage.cached_tokens == (cached if kind == "attention" else recurrent)


def test_a_recurrent_answer_is_extended(make_session: MakeSession) -> None:
    session = make_session(kind="recurrent")
    first = session.generate("once", max_new_tokens=3, ignore_eos=True)
    longer = [*session.encode("once"), *first.tokens, 9]
    assert session.generate(longer, max_new_tokens=1).usage.cached_tokens == 6


def test_a_conversation(make_session: MakeSession) -> None:
    session = make_session()
    messages = [{"role": "user", "content": "hi"}]
    prompt = session.encode(messages)
    assert session.model.tokenizer.decode(prompt, skip_special_tokens=False) == (
        "<|user|>hi<|end|>\n<|assistant|>"
    )
    first = session.generate(messages, max_new_tokens=4)
    assert first.usage.prompt_tokens == len(prompt) == 6
    messages += [{"role": "assistant", "content": "y" * 40}, {"role": "user", "content": "so?"}]
    assert session.generate(messages, max_new_tokens=4).usage.cached_tokens == 0
    messages += [{"role": "assistant", "content": "yo"}, {"role": "user", "content": "no?"}]
    assert session.generate(messages, max_new_tokens=4).usage.cached_tokens == 32


def test_sessions_share_a_model_but_no_state(make_session: MakeSession) -> None:
    session = make_session()
    alone = make_session().generate("abc", max_new_tokens=6, ignore_eos=True)
    for other in (session.share(), Session(session.model)):
        assert other.model is session.model
        session.generate("zzz", max_new_tokens=3)
        result = other.generate("abc", max_new_tokens=6, ignore_eos=True)
        assert same(result, alone)
        assert result.usage.cached_tokens == 0
    with pytest.raises(InputError, match="its device and threads already"):
        Session(session.model, device="cpu")


def test_two_streams_by_turns(make_session: MakeSession) -> None:
    session = make_session()
    other = session.share()
    expected = [
        make_session().generate(prompt, max_new_tokens=6, ignore_eos=True).tokens
        for prompt in ("abc", "xyz")
    ]
    a = session.stream("abc", max_new_tokens=6, ignore_eos=True)
    b = other.stream("xyz", max_new_tokens=6, ignore_eos=True)
    pairs = [(x.token, y.token) for x, y in zip(a, b, strict=True)]
    assert [tuple(tokens) for tokens in zip(*pairs, strict=True)] == expected


def test_a_closed_stream_leaves_its_tokens_in_the_state(make_session: MakeSession) -> None:
    session = make_session()
    stream = session.stream("abc", max_new_tokens=50, ignore_eos=True)
    taken = [next(stream).token for _ in range(30)]
    stream.close()
    assert session.phase is SequencePhase.INACTIVE
    assert session.sequence.tokens == (*b"abc", *taken)
    result = session.generate([*b"abc", *taken, 9], max_new_tokens=5, ignore_eos=True)
    assert result.usage.cached_tokens == 32
    again = make_session().generate([*b"abc", *taken, 9], max_new_tokens=5, ignore_eos=True)
    assert same(result, again)


def test_a_stream_that_was_overtaken_cannot_go_on(make_session: MakeSession) -> None:
    session = make_session()
    stream = session.stream("abc", max_new_tokens=50, ignore_eos=True)
    next(stream)
    expected = session.generate("xyz", max_new_tokens=5, ignore_eos=True)
    with pytest.raises(InputError, match="share"):
        next(stream)
    assert same(session.generate("xyz", max_new_tokens=5, ignore_eos=True), expected)


def test_bad_input_is_refused_before_the_stream_starts(make_session: MakeSession) -> None:
    with pytest.raises(InputError, match="empty prompt"):
        make_session().stream("")


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("", "empty prompt"),
        ([], "empty prompt"),
        ([1, -2], "token id -2"),
        ([300], "vocabulary has ids 0 to 258"),
        ([1, "two"], "must be text"),
        ([True], "must be text"),
        (b"bytes", "must be text"),
        ([{"role": "user", "content": "hi"}, 3], "must be text"),
        ([{"content": "hi"}], "message 0"),
    ],
)
def test_bad_prompts(make_session: MakeSession, prompt: Any, says: str) -> None:
    session = make_session()
    with pytest.raises(InputError, match=says):
        session.generate(prompt)
    assert session.phase is SequencePhase.CREATED


def test_only_text_gets_the_tokenizers_own_tokens(
    make_session: MakeSession, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """A chat template writes its beginning-of-text itself."""
    made = HFTokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    made.post_processor = TemplateProcessing(
        single="<|user|> $A", pair="$A $B", special_tokens=[("<|user|>", 257)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    model = dataclasses.replace(make_session().model, tokenizer=Tokenizer(tmp_path))
    session = Session(model)
    assert session.encode("a") == [257, ord("a")]
    assert session.encode([{"role": "user", "content": "a"}])[:2] == [257, ord("a")]


def test_messages_need_a_template(make_session: MakeSession) -> None:
    with pytest.raises(InputError, match="no chat template"):
        make_session(template=False).generate([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(("prompt", "new"), [(90, 11), (100, 1), (101, None)])
def test_more_than_the_context_is_refused(
    make_session: MakeSession, prompt: int, new: int | None
) -> None:
    session = make_session(context=100)
    with pytest.raises(InputError, match=rf"prompt of {prompt} tokens and {new or 1} new .* 100"):
        session.generate([1] * prompt, max_new_tokens=new)
    assert program_of(session).calls == []


def test_unknown_options_are_refused(make_session: MakeSession) -> None:
    with pytest.raises(InputError, match="did you mean max_new_tokens"):
        make_session().generate("a", max_tokens=3)


def test_token_ids_may_be_an_array(make_session: MakeSession) -> None:
    a = make_session().generate(np.array([1, 2, 3]), max_new_tokens=4)
    assert same(a, make_session().generate([1, 2, 3], max_new_tokens=4))


def test_same_seed_same_text(make_session: MakeSession) -> None:
    def run(seed: int) -> tuple[int, ...]:
        options: dict[str, Any] = {
            "temperature": 2.0,
            "seed": seed,
            "ignore_eos": True,
            "max_new_tokens": 20,
        }
        return make_session().generate("abc", **options).tokens

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_greedy_reads_back_tokens_only(make_session: MakeSession) -> None:
    session = make_session()
    session.generate("abc", max_new_tokens=10, ignore_eos=True)
    assert session.counters[SequencePhase.DECODE].bytes == 9 * 4


class Collector:
    def __init__(self) -> None:
        self.values: list[Any] = []
        self.ended = 0

    def put(self, value: Any) -> None:
        self.values.append(value)

    def end(self) -> None:
        self.ended += 1


def test_streamers_get_prompt_tokens_and_end(make_session: MakeSession) -> None:
    streamer = Collector()
    result = make_session("hi", prompt="say").generate("say", streamer=streamer)
    assert [v.shape for v in streamer.values] == [(1, 3), (1,), (1,), (1,)]
    assert np.concatenate(streamer.values[1:]).tolist() == list(result.tokens)
    assert streamer.values[0].tolist() == [list(b"say")]
    assert streamer.ended == 1


def test_a_streamer_of_transformers(make_session: MakeSession) -> None:
    class Text(TextStreamer):
        shown = ""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.shown += text

    session = make_session("hi there", prompt="say")
    streamer = Text(session.model.tokenizer, skip_prompt=True)  # type: ignore[arg-type]
    result = session.generate("say", streamer=streamer)
    assert streamer.shown == result.text == "hi there"


def test_a_result_as_json_and_for_reading(make_session: MakeSession) -> None:
    result = make_session("hi", prompt="say").generate("say")
    data = result.to_dict()
    assert list(data) == ["text", "tokens", "finish_reason", "usage", "timings"]
    assert list(data["usage"]) == ["prompt_tokens", "completion_tokens", "cached_tokens"]
    assert list(data["timings"]) == [
        "prompt_ms",
        "prompt_per_second",
        "decode_ms",
        "decode_per_second",
        "time_to_first_token_ms",
        "peak_rss_mb",
    ]
    assert data["tokens"] == [*b"hi", EOS]
    assert repr(result).startswith("GenerationResult('hi', finish_reason='stop', prompt 3 tokens")


def test_timings_agree_with_each_other(make_session: MakeSession) -> None:
    session = make_session()
    session.generate(ids(40), max_new_tokens=2)
    result = session.generate(ids(45), max_new_tokens=10, ignore_eos=True)
    times, usage = result.timings, result.usage
    computed = usage.prompt_tokens - usage.cached_tokens
    assert computed == 13
    assert times.prompt_per_second == pytest.approx(computed / times.prompt_ms * 1e3)
    assert times.decode_per_second == pytest.approx(9 / times.decode_ms * 1e3)
    assert times.time_to_first_token_ms >= times.prompt_ms > 0
    assert times.peak_rss_mb > 10


def test_the_consumers_time_is_not_counted(make_session: MakeSession) -> None:
    results = []
    for chunk in make_session().stream("abc", max_new_tokens=4, ignore_eos=True):
        time.sleep(0.05)
        results.append(chunk.result)
    assert results[-1] is not None
    assert results[-1].timings.decode_ms < 50


def test_prefill_and_decode_give_logits(make_session: MakeSession) -> None:
    session, other = make_session(), make_session()
    session.prefill(range(5))
    after = session.decode(9)
    assert after.shape == (259,)
    assert after.dtype == np.float32
    np.testing.assert_array_equal(after, other.prefill([0, 1, 2, 3, 4, 9]))


def test_a_failure_is_final_until_reset(make_session: MakeSession) -> None:
    session = make_session(fail_at=5)
    with pytest.raises(RuntimeError, match="device lost"):
        session.generate("abc", max_new_tokens=10, ignore_eos=True)
    with pytest.raises(DeviceError, match="poisoned"):
        session.generate("abc")
    program_of(session).fail_at = None
    session.reset()
    assert same(session.generate("abc"), make_session().generate("abc"))


@pytest.mark.parametrize("kind", ["attention", "recurrent"])
def test_a_session_goes_on_after_an_interrupt(make_session: MakeSession, kind: str) -> None:
    session = make_session(fail_at=5, kind=kind)
    engine = program_of(session)
    engine.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        session.generate("abc", max_new_tokens=10, ignore_eos=True)
    engine.fail_at = None
    result = session.generate("abcd", max_new_tokens=10, ignore_eos=True)
    other = make_session(kind=kind)
    assert same(result, other.generate("abcd", max_new_tokens=10, ignore_eos=True))


def test_closing_frees_the_state(make_session: MakeSession) -> None:
    with make_session() as session:
        session.generate("abc", max_new_tokens=2)
        assert session.sequence.state_bytes > 0
    assert session.phase is SequencePhase.RETIRED
    assert session.sequence.state_bytes == 0
    with pytest.raises(DeviceError, match="retired"):
        session.generate("abc")


class Letters:
    """Lets nothing through but two letters."""

    def mask(self, tokens: Any, logits: np.ndarray) -> None:
        kept = logits[[97, 98]]
        logits[:] = -np.inf
        logits[[97, 98]] = kept


def test_log_probabilities_and_filters_as_an_engine_has_them(make_session: MakeSession) -> None:
    options: dict[str, Any] = {"max_new_tokens": 5, "ignore_eos": True, "logprobs": 2}
    session = make_session()
    chunks = list(session.stream("abc", token_filter=Letters(), **options))
    with Engine(make_session().model) as engine:
        expected = list(engine.submit("abc", token_filter=Letters(), **options))
    assert [(c.token, c.logprobs) for c in chunks] == [(c.token, c.logprobs) for c in expected]
    assert {chunk.token for chunk in chunks} <= {97, 98}
    result = session.generate("abc", token_filter=Letters(), **options)
    assert result.logprobs == tuple(chunk.logprobs for chunk in chunks)
    assert len(result.to_dict()["logprobs"]) == 5
    with pytest.raises(InputError, match="logprobs"):
        session.stream("abc", logprobs=-1)


@pytest.mark.parametrize("kind", ["attention", "recurrent"])
def test_a_prompt_is_scored_as_an_engine_does_it(make_session: MakeSession, kind: str) -> None:
    session = make_session(kind=kind)
    session.generate(ids(40), max_new_tokens=2)
    result = session.generate(ids(50), score_prompt=True, logprobs=1, max_new_tokens=0)
    with Engine(make_session(kind=kind).model) as engine:
        request = engine.submit(ids(50), score_prompt=True, logprobs=1, max_new_tokens=0)
        assert request.result(20).prompt_logprobs == tuple(request.prompt_logprobs)
    assert result.prompt_logprobs == tuple(request.prompt_logprobs)
    assert (result.tokens, result.usage.cached_tokens, len(result.prompt_logprobs)) == ((), 0, 49)


def test_a_generation_times_out(make_session: MakeSession) -> None:
    session = make_session()
    stream = session.stream("abc", timeout=0.05, max_new_tokens=50, ignore_eos=True)
    taken = [next(stream).token]
    time.sleep(0.06)
    with pytest.raises(RequestTimeout, match="the generation: not done after"):
        next(stream)
    assert session.phase is SequencePhase.INACTIVE
    assert session.sequence.tokens[:4] == (*b"abc", *taken)
    with pytest.raises(InputError, match="timeout"):
        session.generate("abc", timeout=0)


def test_a_filter_that_fails_raises_its_own_error(make_session: MakeSession) -> None:
    class Bad:
        def mask(self, tokens: Any, logits: np.ndarray) -> None:
            raise ValueError("no such grammar")

    session = make_session()
    with pytest.raises(ValueError, match="no such grammar"):
        session.generate("abc", token_filter=Bad())
    assert same(session.generate("abc"), make_session().generate("abc"))


def test_results_after_the_end_of_the_text_are_not_kept(make_session: MakeSession) -> None:
    """Several at once: the number of chunks says to where the sequence must go back."""
    session = make_session("hi", prompt="say")
    steps = [session.sequence.extend(list(b"say"))]
    steps += [session.sequence.step(token) for token in (*b"hi", EOS, 5)]
    generation = Generation(
        session.model.tokenizer,
        prompt=list(b"say"),
        cached=0,
        config=GenerationConfig(max_new_tokens=20, eos_token_id=(EOS,)),
        vocab_size=session.model.vocab_size,
        started=time.perf_counter(),
    )
    assert [chunk.token for chunk in generation.accept(steps[:1])] == [ord("h")]
    chunks = generation.accept(steps[1:])
    assert [chunk.token for chunk in chunks] == [ord("i"), EOS]
    assert chunks[-1].result is not None and chunks[-1].result.text == "hi"
