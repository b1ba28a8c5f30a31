"""Local reports, put into MLflow afterwards: `import_reports`, and `python -m tailrace.reports` for `tailrace import`.

What this module promises:

* A report becomes one run with its own times, status, tags, params, last metrics (at step 0) and figures.
* What is uploaded lies in the report itself: links are refused (`report_copy`). Whatever is wrong with a report is a
  `CallError` that names it.
* Importing twice changes nothing: the run carries the report's own id, and is looked for first.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

import msgspec

from tailrace._api.tracker import Tracker
from tailrace._api.tracker_part import tracker_core_of
from tailrace._offline.local_report import CONFIG, FIGURES, METRICS, RUN_FILE
from tailrace._offline.report_copy import Taken, take_reports
from tailrace._runs.launch import describe
from tailrace_agent.decoding import decode_json
from tailrace_agent.errors import CallError, SettingsError, SinkError, StoreRefused, TailraceError
from tailrace_agent.runtime.places import working_directory
from tailrace_agent.text.quoting import plain, visible

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from tailrace._api.run import Run
    from tailrace._api.tracker_core import TrackerCore

__all__ = ["ImportedRun", "import_reports"]


class ImportedRun(NamedTuple):
    """What became of one report.

    Attributes:
        name: The run's name.
        run_id: MLflow's id of it.
        new: False when it was there already.
        path: The report.
    """

    name: str | None
    run_id: str
    new: bool
    path: Path


def import_reports(
    directory: str | os.PathLike[str],
    tracking_uri: str | os.PathLike[str] | None = None,
    experiment_name: str | None = None,
    *,
    max_bytes: int = 1 << 30,
    **settings: Any,
) -> list[ImportedRun]:
    """Puts the reports of runs that were not tracked into MLflow, the earlier ones in `earlier/` included.

    Args:
        directory: Where `metrics.json` is.
        tracking_uri: Where to; the setting by default.
        experiment_name: The experiment; by default the one that each run had, or the setting.
        max_bytes: Bound of all their files together; 1 GiB by default.
        **settings: Any other setting.

    Returns:
        The runs, the oldest first.

    Raises:
        CallError: There is no report, or it cannot be read, is too large, or holds a link.
        SettingsError: A setting is wrong.
        SinkError, StoreRefused: MLflow cannot be reached, or refuses the tracking URI.
        TimeoutError: A run could not be created in time; what was handed over is delivered later.

    Example:
        >>> import_reports("reports", "http://localhost:5000")
        [ImportedRun(name='baseline', run_id='0f6a…', new=True, path=PosixPath('reports'))]
    """
    with tempfile.TemporaryDirectory(prefix="tailrace-reports-") as scratch:
        found = take_reports(Path(directory), Path(scratch), max_bytes)
        if not found:
            raise CallError(f"there is no {METRICS} in {directory}: no local reports")
        # All are read before anything is sent, and each again when its turn comes: not all are held at once.
        began = {taken.copy: _read(taken).facts.start_time for taken in found}
        tracker = tracker_core_of(Tracker(tracking_uri, None, **{**_ON, **settings}))
        imported: list[ImportedRun] = []
        ids: dict[str, str] = {}
        # The oldest first: a nested run needs MLflow's id of its parent.
        for taken in sorted(found, key=lambda taken: began[taken.copy]):
            report = _read(taken)
            facts = report.facts
            run_id = _existing(tracker, facts.run)
            new = run_id is None
            if run_id is None:
                run_id = _put(tracker, report, taken.copy, experiment_name, ids.get(facts.parent or ""))
            ids[facts.run] = run_id
            imported.append(ImportedRun(facts.name, run_id, new, taken.path))
        return imported


_MOST_VALUES: Final = 100_000
_LONGEST: Final = 10_000
"""Characters of a line that is shown: names and paths are foreign text."""
_Time = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_ON = {"enabled": True, "backend": "mlflow", "agent": "process", "metadata": False, "quiet": True}
"""Whatever turned tracking off before is not meant for the import; and where it runs has nothing to do with the run."""


class _RunFile(msgspec.Struct):
    """The content of `run.json`. Times are milliseconds."""

    # 64 bits in hex, and not 0, which stands for no run.
    run: Annotated[str, msgspec.Meta(pattern=r"\A(?!0*\Z)[0-9a-f]{1,16}\Z")]
    start_time: _Time
    end_time: _Time | None = None
    name: str | None = None
    experiment_name: str | None = None
    parent: str | None = None
    description: str | None = None
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED"
    tags: dict[str, str | int | float | bool | None] = {}


class _Report(NamedTuple):
    params: dict[str, Any]
    metrics: dict[str, Any]
    facts: _RunFile


def _read(taken: Taken) -> _Report:
    import yaml

    # Which file is being read, for the message.
    name = METRICS
    try:
        metrics = json.loads((taken.copy / METRICS).read_bytes())
        if not isinstance(metrics, dict):
            raise TypeError("it is no mapping of names to numbers")
        name = CONFIG
        config = taken.copy / CONFIG
        params = (yaml.safe_load(config.read_bytes()) if config.exists() else None) or {}
        _check_params(params)
        name = RUN_FILE
        run = taken.copy / RUN_FILE
        facts = decode_json(run.read_bytes(), _RunFile) if run.exists() else _guessed(taken)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CallError(f"the report in {taken.path} cannot be read: {name}: {reason}") from None
    return _Report(params, metrics, facts)


def _check_params(params: object) -> None:
    """YAML's aliases let a small file stand for more than any memory holds, and for what holds itself."""
    if not isinstance(params, dict):
        raise TypeError("it is no mapping of names to values")
    todo: list[object] = [params]
    # Counted while it is walked through, and so an end is found also in what holds itself.
    for _ in range(_MOST_VALUES):
        if not todo:
            return
        value = todo.pop()
        if isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, (list, tuple, set)):
            todo += value
    raise ValueError(f"it holds more than {_MOST_VALUES:,} values")


def _guessed(taken: Taken) -> _RunFile:
    """For a report without `run.json`: always the same for the same content."""
    content = b"".join(path.read_bytes() for name in (CONFIG, METRICS) if (path := taken.copy / name).exists())
    written = int((taken.copy / METRICS).stat().st_mtime * 1000)
    run = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1
    return _RunFile(run=f"{run:016x}", name=taken.path.absolute().name, start_time=max(0, written), end_time=written)


def _existing(tracker: TrackerCore, run: str) -> str | None:
    from tailrace_agent.ipc.tags import RUN_TAG
    from tailrace_agent.sinks.mlflow import open_sink

    config = tracker.settings({})
    sink = open_sink(config.tracking_uri, working_directory(), request_timeout=config.request_timeout)
    return next((stored.ref.run_id for stored in sink.find_runs(run) if stored.tags.get(RUN_TAG) == run), None)


def _put(
    tracker: TrackerCore, report: _Report, copy: Path, experiment_name: str | None, parent_run_id: str | None
) -> str:
    facts = report.facts
    config = tracker.settings({"experiment_name": experiment_name or facts.experiment_name})
    spec, credentials = describe(
        config,
        run_name=facts.name,
        parent_run_id=parent_run_id,
        tags={key: str(value) for key, value in facts.tags.items()},
        description=facts.description,
    )
    # The report's own id, by which a second import finds the run.
    spec = msgspec.structs.replace(spec, run=int(facts.run, 16), start_time=facts.start_time)
    ended = facts.end_time or facts.start_time
    core = tracker.runs.begin(spec, config, credentials)
    # Before the run ends: its times are those of the report, not of the import.
    core.end_time = ended
    run: Run = core.handle
    run.log_params(report.params)
    run.log_metrics(report.metrics, step=0, timestamp=ended)
    for name, folder in ((CONFIG, "config"), (FIGURES, None)):
        path = copy / name
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            run.log_artifact(path, folder)
    run.end(facts.status)
    # Waits for MLflow: a parent's id has to be known before the runs below it are put.
    return run.run_id


def _main(arguments: Sequence[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="tailrace import", description="Puts local reports into MLflow.")
    parser.add_argument("directory")
    parser.add_argument("--tracking-uri")
    parser.add_argument("--experiment-name")
    parser.add_argument("--max-size", type=int, default=1 << 30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        runs = import_reports(
            options.directory, options.tracking_uri, options.experiment_name, max_bytes=options.max_size
        )
    except (TailraceError, TimeoutError) as error:
        sys.stderr.write(f"tailrace: {visible(' '.join(str(error).split()))}\n")
        if isinstance(error, (SinkError, StoreRefused, TimeoutError)):
            return 3
        return 2 if isinstance(error, SettingsError) else 1
    if options.json:
        rows = [
            {
                "run_name": run.name,
                "run_id": run.run_id,
                "outcome": "imported" if run.new else "there",
                "path": str(run.path),
            }
            for run in runs
        ]
        sys.stdout.write(json.dumps({"runs": rows}, indent=2) + "\n")
        return 0
    for run in runs:
        what = f"from {run.path}" if run.new else "is there already"
        sys.stdout.write(plain(f"{run.name or '(no name)'} → {run.run_id}: {what}", _LONGEST) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
