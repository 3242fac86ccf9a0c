"""Generation options, under transformers' names."""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.errors import ArtifactError, InputError
from edgec.json_files import read_json

__all__ = ["TO_THE_END", "GenerationConfig", "check_integer", "check_number"]

TO_THE_END = -1
"""The value of `max_new_tokens` that means: until the context is full."""

_ALIASES = {
    "max_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "n_predict": "max_new_tokens",
    "repeat_penalty": "repetition_penalty",
    "stop": "stop_strings",
    "temp": "temperature",
}
_SAMPLING = {"temperature", "top_k", "top_p", "min_p"}
# Keys of a generation_config.json that would change the text if they were set to something else
# than these values, and that edgec does not have.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bad_words_ids": (None,),
    "begin_suppress_tokens": (None,),
    "diversity_penalty": (0.0, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1.0, None),
    "epsilon_cutoff": (0.0, None),
    "eta_cutoff": (0.0, None),
    "exponential_decay_length_penalty": (None,),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "guidance_scale": (1.0, None),
    "no_repeat_ngram_size": (0, None),
    "num_beams": (1, None),
    "penalty_alpha": (0.0, None),
    "sequence_bias": (None,),
    "suppress_tokens": (None,),
    "top_h": (None,),
    "typical_p": (1.0, None),
}


@dataclass(frozen=True)
class GenerationConfig:
    """How to generate. The defaults are transformers'.

    Args:
        max_new_tokens: The most tokens to generate; None or -1: as many as the context holds. A
            model's own number gives way to the context; one that a user gives does not.
        min_new_tokens: End-of-text tokens are suppressed before this many.
        do_sample: Sample instead of taking the most probable token.
        temperature: Divides the logits; 0 is greedy.
        top_k: Keeps the k most probable tokens; 0 keeps all.
        top_p: Keeps the most probable tokens whose probabilities sum to this.
        min_p: Drops tokens less probable than this fraction of the most probable one.
        repetition_penalty: Above 1 makes tokens of the prompt and the text less probable.
        stop_strings: Text that ends the generation and is not part of the result.
        eos_token_id: Tokens that end the generation.
        max_time: Seconds after which the generation ends.
        seed: Same seed, same text; None: another text each time.
        ignore_eos: Go on past end-of-text tokens.

    Raises:
        InputError: a value is out of range; the message names it and the range.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop_strings: tuple[str, ...] = ()
    eos_token_id: tuple[int, ...] = ()
    max_time: float | None = None
    seed: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for name, item in (("stop_strings", str), ("eos_token_id", int)):
            object.__setattr__(self, name, _tuple(name, getattr(self, name), item))
        if self.max_new_tokens is not None and self.max_new_tokens != TO_THE_END:
            check_integer("max_new_tokens", self.max_new_tokens, 1)
        check_integer("min_new_tokens", self.min_new_tokens, 0)
        check_integer("top_k", self.top_k, 0)
        check_number("temperature", self.temperature, 0.0)
        check_number("top_p", self.top_p, 0.0, 1.0)
        check_number("min_p", self.min_p, 0.0, 1.0)
        check_number("repetition_penalty", self.repetition_penalty, 0.0, above=True)
        if self.max_time is not None:
            check_number("max_time", self.max_time, 0.0, above=True)
        if self.seed is not None:
            check_integer("seed", self.seed, 0)
        for name in ("do_sample", "ignore_eos"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}={_shown(getattr(self, name))}: must be true or false")
        for stop in self.stop_strings:
            _text("stop_strings", stop)
        for token in self.eos_token_id:
            check_integer("eos_token_id", token, 0)
        limit = self.max_new_tokens
        if limit is not None and limit != TO_THE_END and self.min_new_tokens > limit:
            raise InputError(
                f"min_new_tokens={self.min_new_tokens}: must not exceed max_new_tokens={limit}"
            )

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return not self.do_sample or self.temperature == 0

    def updated(self, options: Mapping[str, Any]) -> GenerationConfig:
        """This configuration with a user's options; None means "not given".

        Giving a temperature, top_k, top_p or min_p asks for sampling, unless `do_sample` is
        given too.

        Raises:
            InputError: an unknown name (with the one that was probably meant), or a bad value.
        """
        given = {name: value for name, value in options.items() if value is not None}
        known = [field.name for field in dataclasses.fields(self)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                meant = _ALIASES.get(name) or (near[0] if near else None)
                remedy = f"did you mean {meant}?" if meant else "known: " + ", ".join(known)
                raise InputError(f"unknown generation option {name!r}", remedy)
        if "do_sample" not in given and _SAMPLING & set(given):
            given["do_sample"] = True
        return dataclasses.replace(self, **given)

    @staticmethod
    def from_file(path: Path) -> GenerationConfig:
        """The defaults that a model's `generation_config.json` asks for.

        Warns of keys that would change the text and that edgec does not have; keys that are
        about other things (caching, padding, versions) are passed over.

        Raises:
            ArtifactError: not a JSON object, or a value out of range.
        """
        try:
            data = read_json(path)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: cannot be read: {error}", "compile again") from None
        if not isinstance(data, dict):
            raise ArtifactError(f"{path}: must be a JSON object", "compile again")
        ignored = [key for key, off in _NEUTRAL.items() if key in data and data[key] not in off]
        if ignored:
            warnings.warn(f"{path}: edgec has no {', '.join(ignored)}", stacklevel=2)
        names = {field.name for field in dataclasses.fields(GenerationConfig)}
        values = {k: v for k, v in data.items() if k in names and v is not None}
        try:
            return GenerationConfig(**values)
        except InputError as error:
            raise ArtifactError(f"{path}: {error.what}", "correct the file") from None


def _tuple(name: str, value: Any, item: type) -> tuple[Any, ...]:
    """One value or several of them as a tuple; they are checked later."""
    if value is None:
        return ()
    if isinstance(value, item):
        return (value,)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return tuple(value)
    kind = "text, or a list of texts" if item is str else "a token id, or a list of ids"
    raise InputError(f"{name}={_shown(value)}: must be {kind}")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise InputError(f"{name}={_shown(value)}: must be text that is not empty")


def check_integer(name: str, value: Any, low: int, high: int = 2**64 - 1) -> None:
    """Refuses what is no integer in a range.

    Raises:
        InputError: with the name, the value and the range.
    """
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return
    span = f"of at least {low}" if high == 2**64 - 1 else f"from {low} to {high}"
    raise InputError(f"{name}={_shown(value)}: must be an integer {span}")


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False
) -> None:
    """Refuses what is no finite number in a range.

    Args:
        above: `low` itself is outside.

    Raises:
        InputError: with the name, the value and the range.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Compared as they are: an integer may be too large for a float.
        finite = -sys.float_info.max <= value <= sys.float_info.max
        if finite and low <= value <= high and not (above and value == low):
            return
    span = f"of at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
    wanted = f"above {low:g}" if above else span
    raise InputError(f"{name}={_shown(value)}: must be a number {wanted}")


def _shown(value: Any) -> str:
    """A value for a message, however long it is."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"(a number of {value.bit_length()} bits)"
    try:
        text = repr(value)
    except ValueError:  # of a list with such a number
        return f"(a {type(value).__name__})"
    return text if len(text) <= 200 else f"{text[:200]}…"
