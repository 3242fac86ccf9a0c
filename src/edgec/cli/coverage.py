"""`edgec models --coverage`: which families of transformers compile, and what stops the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgec.cli.extra import require_compile
from edgec.cli.text import print_json, stderr, stdout
from edgec.errors import InputError

__all__ = ["run_coverage"]

FAILING = "failing"


def run_coverage(
    families: str, jobs: int, target: str, *, fresh: bool, write: Path | None, json: bool
) -> int:
    """Checks families and prints a line for each as it is known, then the counts.

    Args:
        families: Model types with commas, `failing` for those that are not known to be exact, or
            empty for all.
        jobs: Processes at a time.
        target: As for `edgec.compile`; of one kind.
        fresh: Check again what is known.
        write: The page to write; only for all families on the CPU. The sample of the page's second
            table is compared too.
        json: Print the results as JSON instead.

    Returns:
        0, or 1 if a family fails.

    Raises:
        InputError: unknown families, or `write` without all of them.
    """
    require_compile("edgec models --coverage")
    from edgec.compiler.digest import versions
    from edgec.compiler.driver import default_cache_dir
    from edgec.compiler.targets import parse_targets
    from edgec.coverage.result import EXACT, FAILS, NOT_TEXT, Result, Results
    from edgec.coverage.run import run
    from edgec.coverage.sample import SAMPLE, TARGET
    from edgec.coverage.table import page, summary
    from edgec.models.tiny import causal_families

    parse_targets(target)
    known = causal_families()
    results = Results(default_cache_dir() / "coverage")
    wanted = _chosen(families, known)
    if families == FAILING:
        last = {family: results.read(family, target) for family in known}
        wanted = [f for f, r in last.items() if r is None or r.status == FAILS]
    if write is not None and (len(wanted) < len(known) or target != "cpu"):
        raise InputError("write: the page is about all families on the CPU", "drop --families")
    console = stdout()
    colours = {EXACT: "green", FAILS: "red", NOT_TEXT: "dim"}
    width = max((len(family) for family in wanted), default=0)
    done = 0

    def report(result: Result) -> None:
        nonlocal done
        done += 1
        if json:
            return
        what = f"{result.stage}: {result.message}" if result.stage else result.message
        if result.status == EXACT:
            own = " (own code)" if result.attention == "own" else ""
            what = f"{result.error:.0e}  {', '.join(result.state)}{own}"
        console.print(
            f"[dim]{done:3}/{len(wanted)}[/]  {result.family:{width}}  "
            f"[{colours[result.status]}]{result.status:8}[/]",
            end="  ",
        )
        console.print(what, markup=False, overflow="ellipsis", no_wrap=True, crop=True)

    found = run(wanted, results, target=target, jobs=jobs, fresh=fresh, report=report)
    if json:
        print_json([dataclasses.asdict(result) for result in found])
    else:
        console.print(summary(found))
    if write is not None:
        # The page is about one state of the code: the sample is compared again where it is not.
        done, wanted = 0, list(SAMPLE)
        others = run(wanted, results, target=TARGET, jobs=jobs, fresh=fresh, report=report)
        if not json:
            console.print(f"{TARGET}: {summary(others)}")
        write.write_text(page(found, others, versions()), encoding="utf-8")
        stderr().print(f"{write}", soft_wrap=True)
    return int(any(result.status == FAILS for result in found))


def _chosen(families: str, known: tuple[str, ...]) -> list[str]:
    if families in ("", FAILING):
        return list(known)
    chosen = [family.strip() for family in families.split(",")]
    if unknown := [family for family in chosen if family not in known]:
        raise InputError(
            f"families {', '.join(unknown)}: not causal language models of transformers",
            "`edgec models --coverage --json` lists them all",
        )
    return chosen
