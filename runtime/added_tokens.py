"""The tokens that a model folder names beside its `tokenizer.json`.

An artifact has them all in `tokenizer.json`, where compiling put them. A folder as it was published
may keep them in `tokenizer_config.json`, `special_tokens_map.json` or `added_tokens.json`. They are
added in the order in which transformers 5 does, because ids follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

__all__ = ["add_tokens", "merged", "named_tokens"]

_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_EXTRA, _ADDITIONAL = "extra_special_tokens", "additional_special_tokens"


def merged(config: Mapping[str, Any], special_tokens_map: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer_config.json` with what counts of `special_tokens_map.json`.

    The latter is read only where the former does not list its added tokens.
    """
    values = dict(config)
    if _ADDITIONAL in values and not values.get(_EXTRA):
        values[_EXTRA] = values.pop(_ADDITIONAL)
    if "added_tokens_decoder" not in values:
        for key, value in special_tokens_map.items():
            if key == _EXTRA and isinstance(value, list):
                values[key] = [*(values.get(_EXTRA) or []), *map(_special, value)]
            else:
                values[key] = _special(value)
    return values


def named_tokens(values: Mapping[str, Any]) -> dict[str, str]:
    """Name to spelling of special tokens: these are variables of chat templates."""
    return {name: text for name, value in _named(values).items() if (text := _spelling(value))}


def add_tokens(tokenizer: Tokenizer, values: Mapping[str, Any], added: Mapping[str, Any]) -> None:
    """Adds what `tokenizer` lacks.

    Args:
        tokenizer: Changed in place.
        values: What `merged` gives.
        added: `added_tokens.json`, spelling to id; not read where `values` list added tokens.

    Raises:
        Exception: a token is not written as one.
    """
    from tokenizers import AddedToken

    named = _named(values)
    extra = values[_EXTRA] if _EXTRA in values else values.get(_ADDITIONAL)
    extra = extra if isinstance(extra, list) else []
    known = tokenizer.get_added_tokens_decoder()
    if "added_tokens_decoder" in values:
        listed = {int(i): _token(value) for i, value in values["added_tokens_decoder"].items()}
    else:
        special = {_spelling(values.get(name)) for name in _NAMED}
        special |= set(map(_spelling, values.get(_EXTRA) or []))
        listed = {
            int(index): AddedToken(text, normalized=text not in special, special=text in special)
            for text, index in added.items()
        }
        listed |= known
    present = {repr(token) for token in known.values()}
    new = [token for _, token in sorted(listed.items()) if repr(token) not in present]
    spellings = {token.content for token in (*known.values(), *new)}
    as_written = {token.content: token for token in listed.values()}
    for value in (*named.values(), *extra):
        text = _spelling(value)
        if text and text not in spellings:
            new.append(as_written.get(text) or _token(value))
            spellings.add(text)
    names = set(map(_spelling, named.values()))
    for token in new:
        token.special = token.special or token.content in names
    if new:
        tokenizer.add_tokens(new)


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Special tokens that have a name: the usual ones first, then the model's own."""
    found = {name: values[name] for name in _NAMED if name in values}
    found |= {name: value for name, value in values.items() if name.endswith("_token")}
    own = values.get(_EXTRA)
    return found | (own if isinstance(own, dict) else {})


def _special(value: Any) -> Any:
    """A token of `special_tokens_map.json`, where all are special."""
    return {**value, "special": True} if isinstance(value, dict) and "content" in value else value


def _spelling(value: Any) -> str | None:
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _token(value: Any) -> AddedToken:
    """A token as it is written: its spelling, which is a special one, or an object."""
    from tokenizers import AddedToken

    if isinstance(value, dict):
        return AddedToken(**{key: part for key, part in value.items() if key != "__type"})
    return AddedToken(value, special=True)
