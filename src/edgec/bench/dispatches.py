"""Choices of code generation, from `iree-compile --compile-to=executable-configurations`."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Contraction", "contractions", "dispatch_counts"]

_DISPATCH = re.compile(
    r"func\.func @(?P<name>[\w$]+)\(\)(?P<rest>.*?)(?=func\.func @|util\.func |\Z)", re.DOTALL
)
_CONTRACTION = re.compile(r"matmul|matvec|vecmat|mmt4d|_dot|batch_mat|contract")
_FUNCTION = re.compile(
    r"util\.func (?:public|private) @(?P<name>[\w$]+)\((?P<body>.*?)(?=\n  util\.func |\Z)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Contraction:
    """A dispatch with a matrix product: its name, the pipeline that compiles it, and its tiles."""

    name: str
    pipeline: str
    tiles: str


def contractions(text: str) -> list[Contraction]:
    """Every contraction of a module in the `executable-configurations` form, in its order."""
    found = []
    for match in _DISPATCH.finditer(text):
        name, rest = match["name"], match["rest"]
        if _CONTRACTION.search(name):
            found.append(Contraction(name, _pipeline(rest), _tiles(rest)))
    return found


def dispatch_counts(text: str) -> dict[str, int]:
    """Entry point to the dispatches that one call of it submits."""
    counts = {}
    for match in _FUNCTION.finditer(text):
        count = match["body"].count("stream.cmd.dispatch ")
        if count:
            counts[match["name"].removesuffix("$async")] = count
    return counts


def _pipeline(text: str) -> str:
    found = re.search(r"translation_info<pipeline = (?:#iree_\w+\.\w*pipeline<)?([\w:]+)", text)
    name = found[1] if found else "none"
    size = re.search(r"workgroup_size = (\[[\d, ]+\])", text)
    return name + (f" {size[1].replace(' ', '')}" if size else "")


def _tiles(text: str) -> str:
    """The lowering config of the contraction, without what code generation adds to every one."""
    configs = [_balanced(text, match.end()) for match in re.finditer(r"lowering_config<", text)]
    best = max(configs, key=lambda c: ("mma_kind" in c, "reduction" in c), default="")
    keys = ("workgroup", "distribution", "cache_parallel", "cache_reduction", "reduction",
            "thread", "partial_reduction", "vector_common_parallel", "vector_reduction",
            "subgroup")  # fmt: skip
    parts = []
    for key in keys:
        found = re.search(rf"(?<![\w]){key} = (\[[^\]]*\])", best)
        if found:
            parts.append(f"{key} {found[1].replace(' ', '')}")
    if mma := re.search(r"mma_kind = #iree_gpu\.\w+<(\w+)>", best):
        parts.append(mma[1])
    return "; ".join(parts)


def _balanced(text: str, start: int) -> str:
    """The text in the angle brackets that were opened before `start`."""
    depth = 1
    for at in range(start, min(len(text), start + 4000)):
        if text[at] == "<":
            depth += 1
        elif text[at] == ">" and text[at - 1] != "-":
            depth -= 1
            if depth == 0:
                return text[start:at]
    return text[start : start + 4000]
