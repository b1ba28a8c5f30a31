"""`python -m tailrace.hpo`: what `tailrace hpo` starts."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Final

from tailrace_agent.errors import SettingsError, SinkError, TailraceError

if TYPE_CHECKING:
    import argparse

    from tailrace.hpo.result import HpoResult

__all__ = ["main"]

_OVERRIDE: Final = "n_trials=50"

_CODES: Final[tuple[tuple[type[Exception], int], ...]] = ((SettingsError, 2), (SinkError, 3))


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line, searches, and prints the result. Returns the exit code."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m tailrace.hpo", description="Searches as a file says.")
    parser.add_argument("config", help="a YAML, TOML or JSON file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values in place of the file's")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes at work on it")
    parser.add_argument("--storage", metavar="URL", help="where the study is kept")
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")
    given = parser.parse_intermixed_args(arguments)  # overrides may stand behind options
    signal.signal(signal.SIGTERM, _terminated)
    try:
        result = _search(given)
    except KeyboardInterrupt:
        return 130
    except TailraceError as error:
        sys.stderr.write(f"tailrace: {' '.join(str(error).split())}\n")
        return next((code for kind, code in _CODES if isinstance(error, kind)), 1)
    _show(result, as_json=given.json)
    return 0 if result.counts.completed else 1


def _search(given: argparse.Namespace) -> HpoResult:
    from tailrace.config import read_override
    from tailrace.hpo.command import search

    if given.workers < 1:
        raise SettingsError(f"--workers is {given.workers}; allowed: 1 or more")
    overrides = dict(read_override(each, _OVERRIDE) for each in given.overrides)
    if given.storage:
        overrides["storage"] = given.storage
    return search(given.config, overrides, workers=given.workers, aside=given.json)


def _show(result: HpoResult, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        shown = {
            "study_name": result.study.study_name,
            "parent_run_id": result.parent_run_id,
            "best_value": result.best_value,
            "best_params": result.best_params,
            "best_trial_number": result.best_trial_number,
            "counts": result.counts._asdict(),
        }
        print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())  # noqa: T201 - its output
        return
    counts = result.counts
    print(  # noqa: T201
        f"{result.study.study_name}: {counts.total} trials, {counts.completed} completed, {counts.pruned} pruned, "
        f"{counts.failed} failed"
    )
    if result.best_value is not None:
        print(f"best {result.metric} {result.best_value:.5g}, trial {result.best_trial_number}")  # noqa: T201
        for name, value in result.best_params.items():
            print(f"  {name} = {value}")  # noqa: T201


def _terminated(*_: object) -> None:
    raise SystemExit(143)


if __name__ == "__main__":
    sys.exit(main())
