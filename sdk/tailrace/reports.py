"""Local reports, put into MLflow afterwards: `import_reports`, and `python -m tailrace.reports` for `tailrace import`.

What this module promises:

* A report becomes one run with its own times, status, tags, params, last metrics (at step 0) and figures.
* Importing twice changes nothing: the run carries the report's own id, and is looked for first.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tailrace._launch import describe
from tailrace._local import CONFIG, EARLIER, FIGURES, METRICS, RUN
from tailrace._tracker import Tracker
from tailrace_agent.errors import CallError, SettingsError, SinkError, StoreRefused, TailraceError
from tailrace_agent.places import working_directory

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

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
    **settings: Any,
) -> list[ImportedRun]:
    """Puts the reports of runs that were not tracked into MLflow, the earlier ones in `earlier/` included.

    Args:
        directory: Where `metrics.json` is.
        tracking_uri: Where to; the setting by default.
        experiment_name: The experiment; by default the one that each run had, or the setting.
        **settings: Any other setting.

    Returns:
        The runs, the oldest first.

    Raises:
        CallError: There is no report, or it cannot be read.
        SettingsError: A setting is wrong.
        SinkError, StoreRefused: MLflow cannot be reached, or refuses the tracking URI.
        TimeoutError: A run could not be created in time; what was handed over is delivered later.

    Example:
        >>> import_reports("reports", "http://localhost:5000")
        [ImportedRun(name='baseline', run_id='0f6a…', new=True, path=PosixPath('reports'))]
    """
    found = [_read(path.parent) for path in _reports(Path(directory))]
    if not found:
        raise CallError(f"there is no {METRICS} in {directory}: no local reports")
    tracker = Tracker(tracking_uri, None, **{**_ON, **settings})
    imported: list[ImportedRun] = []
    ids: dict[str, str] = {}
    for report in sorted(found, key=lambda report: report.told["start_time"]):
        run_id = _existing(tracker, report.told["run"])
        new = run_id is None
        if run_id is None:
            run_id = _put(tracker, report, experiment_name, ids.get(report.told.get("parent") or ""))
        ids[report.told["run"]] = run_id
        imported.append(ImportedRun(report.told.get("name"), run_id, new, report.path))
    return imported


_ON = {"enabled": True, "backend": "mlflow", "agent": "process", "metadata": False, "quiet": True}
"""Whatever turned tracking off before is not meant for the import; and where it runs says nothing of the run."""


class _Report(NamedTuple):
    path: Path
    params: dict[str, Any]
    metrics: dict[str, float]
    told: dict[str, Any]


def _reports(directory: Path) -> list[Path]:
    return [*directory.glob(f"{EARLIER}/*/{METRICS}"), *directory.glob(METRICS)]


def _read(directory: Path) -> _Report:
    yaml: Any = importlib.import_module("yaml")  # untyped
    try:
        metrics = json.loads((directory / METRICS).read_text(encoding="utf-8"))
        config, run = directory / CONFIG, directory / RUN
        params = yaml.safe_load(config.read_text(encoding="utf-8")) if config.exists() else {}
        told = json.loads(run.read_text(encoding="utf-8")) if run.exists() else _guessed(directory)
        report = _Report(directory, dict(params or {}), dict(metrics), dict(told))
        known = 0 < int(report.told["run"], 16) < 1 << 64 and int(report.told["start_time"]) >= 0
        if not known or not isinstance(report.told.get("tags", {}), dict):
            raise ValueError(f"{RUN} is none of tailrace's")
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise CallError(f"the report in {directory} cannot be read: {type(error).__name__}: {error}") from None
    return report


def _guessed(directory: Path) -> dict[str, Any]:
    """For a report without `run.json`: always the same for the same content."""
    content = b"".join(path.read_bytes() for name in (CONFIG, METRICS) if (path := directory / name).exists())
    written = int((directory / METRICS).stat().st_mtime * 1000)
    run = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1
    return {"run": f"{run:016x}", "name": directory.absolute().name, "start_time": written, "end_time": written}


def _existing(tracker: Tracker, run: str) -> str | None:
    from tailrace_agent.mlflow_sink import RUN_TAG, open_sink

    config = tracker._settings({})
    sink = open_sink(config.tracking_uri, working_directory(), request_timeout=config.request_timeout)
    return next((stored.ref.run_id for stored in sink.find_runs(run) if stored.tags.get(RUN_TAG) == run), None)


def _put(tracker: Tracker, report: _Report, experiment_name: str | None, parent_run_id: str | None) -> str:
    told = report.told
    experiment = experiment_name or told.get("experiment_name")
    config = tracker._settings({"experiment_name": experiment})
    spec, credentials = describe(
        config,
        run_name=told.get("name"),
        parent_run_id=parent_run_id,
        tags={str(key): str(value) for key, value in told.get("tags", {}).items()},
        description=told.get("description"),
    )
    spec = msgspec.structs.replace(spec, run=int(told["run"], 16), start_time=int(told["start_time"]))
    ended = int(told.get("end_time") or told["start_time"])
    run = tracker._begin(spec, config, credentials)
    run._end_time = ended
    run.log_params(report.params)
    run.log_metrics(report.metrics, step=0, timestamp=ended)
    for name, folder in ((CONFIG, "config"), (FIGURES, None)):
        path = report.path / name
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            run.log_artifact(path, folder)
    run.end(told.get("status", "FINISHED"))
    return run.run_id


def _main(arguments: Sequence[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(prog="tailrace import", description="Puts local reports into MLflow.")
    parser.add_argument("directory")
    parser.add_argument("--tracking-uri")
    parser.add_argument("--experiment-name")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    try:
        runs = import_reports(asked.directory, asked.tracking_uri, asked.experiment_name)
    except (TailraceError, TimeoutError) as error:
        sys.stderr.write(f"tailrace: {error}\n")
        if isinstance(error, (SinkError, StoreRefused, TimeoutError)):
            return 3
        return 2 if isinstance(error, SettingsError) else 1
    if asked.json:
        told = [
            {
                "run_name": run.name,
                "run_id": run.run_id,
                "outcome": "imported" if run.new else "there",
                "path": str(run.path),
            }
            for run in runs
        ]
        sys.stdout.write(json.dumps({"runs": told}, indent=2) + "\n")
        return 0
    for run in runs:
        what = f"from {run.path}" if run.new else "is there already"
        sys.stdout.write(f"{run.name or '(no name)'} → {run.run_id}: {what}\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
