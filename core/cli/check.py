"""`duosora check`: run golden cases on a backend and print how far each came from its numbers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer


def check(
    folder: Annotated[Path, typer.Argument(help="A folder of golden families, one family, or one case.")],
    backend: Annotated[str | None, typer.Option(help="torch or mindspore; by default the one that is there.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, npu, ...")] = "auto",
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write every error to this file.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A row for every tensor, not only the worst.")
    ] = False,
) -> None:
    """Run golden cases on a backend.

    Compares it with the original implementations' numbers. Exit code 1 when one is outside its tolerance.
    """
    from ..goldens.suite import Result, find_all, is_implemented, run_case, run_manifest
    from ..io.files import refuse_unwritable
    from ..printable import say
    from ..progress import progress
    from ..seam.backend import get
    from .tables import show

    if as_json:
        refuse_unwritable(as_json, overwrite=True)
    manifests, cases = find_all(folder)
    runnable = [case for case in cases if is_implemented(case)]
    later = Counter(case.family for case in cases if not is_implemented(case))
    chosen = get(backend, device)
    results: list[Result] = [run_manifest(file) for file in manifests]
    results += [run_case(case, chosen) for case in progress(runnable, "golden cases", "case", len(runnable))]
    show(_table(results, verbose))
    say(*(f"ERROR {result.name}: {result.error}" for result in results if result.error))
    say(*(f"not yet: {family} ({count} cases)" for family, count in sorted(later.items())))
    unproven = Counter(case.family for case in runnable if case.has_unproven_weights)
    say(*(f"weights without a sha256: {family} ({count} cases)" for family, count in sorted(unproven.items())))
    failed = [result for result in results if not result.passed]
    say(
        f"{len(results) - len(failed)} passed, {len(failed)} failed, {sum(later.values())} not yet "
        f"on {chosen.name} ({chosen.device})"
    )
    if as_json:
        _write_json(as_json, results, later, chosen.versions())
    if failed:
        raise typer.Exit(1)


def _table(results: list[Any], verbose: bool) -> Any:
    from .tables import Table

    table = Table("case", "tensor", "max error", "error / limit", "")
    for result in results:
        if result.error:
            table.add_row(result.name, "see below", "", "", "ERROR", style="red")
            continue
        worst = result.worst
        rows = result.verdicts if verbose else [verdict for verdict in result.verdicts if not verdict.passed] or [worst]
        for verdict in rows:
            style = None if verdict.passed else "red"
            mark = "ok" if verdict.passed else "FAIL"
            table.add_row(
                result.name, verdict.name, f"{verdict.max_error:.2e}", f"{verdict.ratio:.3f}", mark, style=style
            )
    return table


def _write_json(path: Path, results: list[Any], later: Counter[str], versions: dict[str, str]) -> None:
    from ..io.files import atomic_write

    report = {
        "versions": versions,
        "not_yet": later,
        "cases": [
            {
                "case": result.name,
                "passed": result.passed,
                "error": result.error,
                "tensors": [
                    {"name": verdict.name, "max_error": verdict.max_error, "ratio": verdict.ratio}
                    for verdict in result.verdicts
                ],
            }
            for result in results
        ],
    }
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(report, indent=1), encoding="utf-8")
