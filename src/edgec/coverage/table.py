"""The results as the page `docs/models.md`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edgec.coverage.check import DECODED, FOLLOW_UP, PROMPTS, TOLERANCE
from edgec.coverage.result import EXACT, FAILS, NOT_TEXT, Result

__all__ = ["page", "summary"]


def summary(results: Sequence[Result]) -> str:
    """One line of counts."""
    counts = Counter(result.status for result in results)
    parts = [f"{counts[EXACT]} exact", f"{counts[FAILS]} fail"]
    if counts[NOT_TEXT]:
        parts.append(f"{counts[NOT_TEXT]} are no decoders of text alone")
    return f"{len(results)} families: {', '.join(parts)}"


def page(results: Sequence[Result], others: Sequence[Result], versions: dict[str, str]) -> str:
    """The whole page.

    Args:
        results: Of the families on the CPU.
        others: Of a sample on other targets.
        versions: Of what was run, by package.
    """
    exact = [r for r in results if r.status == EXACT]
    failing = [r for r in results if r.status == FAILS]
    other = [r for r in results if r.status == NOT_TEXT]
    prompts = ", ".join(str(count) for count in PROMPTS[:-1]) + f" and {PROMPTS[-1]}"
    ran = ", ".join(f"{name} {versions[name]}" for name in ("transformers", "torch", "iree"))
    lines = [
        "# Models",
        "",
        "<!-- Written by `edgec models --coverage --write docs/models.md`. Do not edit. -->",
        "",
        f"{summary(results)}.",
        "",
        "Measured, not claimed. For every family that transformers maps to a causal language model",
        "a tiny random configuration is made by rule from the fields of its configuration, with",
        "each kind of layer that it has and windows shorter than the prompts. It is exported,",
        f"compiled for the CPU and compared with transformers eager: prefill of {prompts} tokens,",
        f"{DECODED} greedy tokens, then a follow-up prefill of {FOLLOW_UP}. Exact means that all",
        f"logits are within {TOLERANCE:.0e} of their range and every token is the same.",
        f"({ran})",
        "",
        "```sh not-tested: takes a quarter of an hour or more",
        "edgec models --coverage --jobs 4 --write docs/models.md",
        "```",
        "",
        f"## Exact: {len(exact)}",
        "",
        "Attention is edgec's `operator`, whose work follows the depth of a sequence",
        f"({_count(exact, 'operator')} families), or a family's `own` code, whose work follows",
        f"the context ({_count(exact, 'own')} families).",
        "",
        "| family | state | attention | largest error |",
        "|---|---|---|---|",
        *(f"| {r.family} | {', '.join(r.state)} | {r.attention} | {r.error:.0e} |" for r in exact),
        "",
    ]
    if failing:
        lines += [
            f"## Not yet: {len(failing)}",
            "",
            "Each is refused, or noticed by the comparison, at the stage that is named.",
            "",
            "| family | stage | what it says |",
            "|---|---|---|",
            *(f"| {r.family} | {r.stage} | {_cell(r.message)} |" for r in failing),
            "",
        ]
    if other:
        lines += [
            f"## No decoders of text alone: {len(other)}",
            "",
            "| family | why |",
            "|---|---|",
            *(f"| {r.family} | {_cell(r.message)} |" for r in other),
            "",
        ]
    if others:
        lines += [
            "## On other targets",
            "",
            "The same comparison for a sample over the kinds of state.",
            "",
            "| family | target | state | result |",
            "|---|---|---|---|",
            *(
                f"| {r.family} | {r.target} | {', '.join(r.state)} | {_outcome(r)} |"
                for r in others
            ),
            "",
        ]
    return "\n".join(lines)


def _count(results: Sequence[Result], attention: str) -> int:
    return sum(result.attention == attention for result in results)


def _outcome(result: Result) -> str:
    if result.status == EXACT:
        return f"exact, {result.error:.0e}"
    return _cell(f"{result.stage}: {result.message}")


def _cell(text: str) -> str:
    """Text that stays in its cell."""
    text = text.replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= 160 else text[:157] + "..."
