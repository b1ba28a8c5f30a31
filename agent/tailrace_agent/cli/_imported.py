"""What `tailrace import` says of the runs that it has brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tailrace_agent.cli._app import as_json, console, count, print_line

if TYPE_CHECKING:
    from tailrace_agent.reading.import_ import Imported

__all__ = ["conclude", "print_imported"]


def print_imported(each: Imported, left_out: Mapping[str, int] | None = None) -> None:
    """One run."""
    name = f"{each.run_name or each.source_run_id[:8]} → {each.run_id} ({each.experiment})"
    if each.outcome == "there":
        print_line(console(), f"{name}: is there already", "dim")
        return
    new = "more " if each.outcome == "continued" else ""
    print_line(console(), f"{name}: {count(each.points, f'{new}point')}, {count(each.artifacts, 'artifact')}")
    if left_out:
        what = ", ".join(f"{n:,} {name}" for name, n in left_out.items())
        print_line(console(), f"  MLflow has no place for {what}: left out", "yellow")


def conclude(done: Sequence[Imported], store: str, *, json_: bool) -> None:
    """All of them."""
    if json_:
        as_json({"store": store, "runs": done})
        return
    of = {outcome: sum(each.outcome == outcome for each in done) for outcome in ("imported", "continued", "there")}
    more = "".join(
        f", {of[outcome]} {words}"
        for outcome, words in (("continued", "continued"), ("there", "there before"))
        if of[outcome]
    )
    print_line(console(), f"{count(of['imported'], 'run')} imported into {store}{more}")
