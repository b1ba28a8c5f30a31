"""Local reports: what a run that is not delivered leaves in the directory `reports`.

What this module promises:

* `config.yaml` (params), `metrics.json` (the last value of each metric), `figures/`, and `run.json` (everything else)
  are those of the run that ended last. They appear together and whole.
* Nothing is overwritten: what lies there from before is moved to `earlier/<when>-<which>/` first.
* Nothing that goes wrong reaches training: it is reported once.

`tailrace.reports` reads such a directory and puts it into MLflow.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailrace._background.lane import LANE
from tailrace._messages.voice import print_line
from tailrace._values.params import plain_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailrace._artifacts.captured import Part
    from tailrace._log.last_values import Latest
    from tailrace._messages.voice import Voice
    from tailrace_agent.ipc.records import RunSpec
    from tailrace_agent.settings.settings import Settings

__all__ = ["CONFIG", "EARLIER", "FIGURES", "METRICS", "RUN_FILE", "LocalReport"]

CONFIG: Final = "config.yaml"
METRICS: Final = "metrics.json"
FIGURES: Final = "figures"
RUN_FILE: Final = "run.json"
EARLIER: Final = "earlier"
_ALL: Final = (CONFIG, METRICS, FIGURES, RUN_FILE)


class LocalReport:
    """What one run will leave.

    Args:
        spec: What the run is.
        settings: In force for it.
        voice: Prints lines and warnings.

    Attributes:
        tags: The run's tags.

    Thread safety: every method from any thread.
    """

    def __init__(self, spec: RunSpec, settings: Settings, voice: Voice) -> None:
        self._spec, self._settings, self._voice = spec, settings, voice
        self._root = Path(spec.cwd, settings.reports_dir)
        # In the same directory, so that a rename puts it in place whole.
        self._own = self._root / f".{spec.run:016x}"
        self._params: dict[str, Any] = {}
        self.tags = dict(spec.tags)

    def add_params(self, params: object) -> None:
        """Params as they were passed, nested or not; the first value of a name stays, as in MLflow."""
        _merge(self._params, plain_config(params, []))  # what cannot be read, `log_params` has reported

    def draw(self, part: Part) -> None:
        """Writes one figure, and leaves out a table that comes with it. In the lane's thread."""
        if part.artifact_file.endswith(".parquet"):
            return
        path = self._own / FIGURES / part.artifact_file.removeprefix(f"{FIGURES}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write(path)

    def finish(self, status: str, latest: Latest | None, timeout: float) -> None:
        """The run has ended: writes all of it. Figures are waited for, `timeout` seconds at most."""
        # A figure that is not drawn by then is missing in the report; the rest of it does not wait.
        LANE.drain(timeout)
        metrics = latest.numbers() if latest is not None and self._settings.log_metrics else {}
        if latest is not None and latest.left_out:
            self._voice.warn(f"{latest.left_out} values are not in {METRICS}: too many names, or values out of reach")
        try:
            # Also without figures: all four are put in place, so that none of an earlier run's is taken for this one's.
            self._own.joinpath(FIGURES).mkdir(parents=True, exist_ok=True)
            figures = sum(path.is_file() for path in self._own.joinpath(FIGURES).rglob("*"))
            _write(self._own / CONFIG, _as_yaml(self._params))
            _write(self._own / METRICS, _as_json(metrics))
            _write(self._own / RUN_FILE, _as_json(self._described(status)))
            self._put_in_place()
        except OSError as error:
            self._voice.warn(f"the local reports could not be written to {self._root}: {error}")
            return
        if not self._settings.quiet:
            parts = (_count(len(metrics), "metric"), _count(len(self._params), "param"), _count(figures, "figure"))
            print_line(f"tracking is off: {', '.join(parts)} → {self._root}{os.sep}")

    # -- inside ------------------------------------------------------------------------------------------------------

    def _described(self, status: str) -> dict[str, Any]:
        return {
            "run": f"{self._spec.run:016x}",
            "name": self._spec.run_name,
            "experiment_name": self._spec.experiment_name,
            "parent": None if self._spec.parent is None else f"{self._spec.parent:016x}",
            "description": self._spec.description,
            "status": status,
            "start_time": self._spec.start_time,
            "end_time": time.time_ns() // 1_000_000,
            "tags": self.tags,
        }

    def _put_in_place(self) -> None:
        # Two runs that end at once would move each other's halves away.
        with _alone(self._root):
            there = [name for name in _ALL if (self._root / name).exists()]
            if there:
                earlier = self._root / EARLIER / _name_of(self._root)
                earlier.mkdir(parents=True, exist_ok=True)
                for name in there:
                    (self._root / name).rename(earlier / name)
            for name in _ALL:
                # RUN_FILE comes last: a report without it can still be imported, under an id made of its content.
                (self._own / name).rename(self._root / name)
            self._own.rmdir()


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """While no other process puts its report there."""
    import fcntl

    handle = os.open(directory, os.O_RDONLY)
    try:
        # On the directory itself, so no lock file is left in it; it falls with the process.
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _name_of(report: Path) -> str:
    """A name for an earlier report: when it began, and which run it was."""
    import json

    try:
        record = json.loads((report / RUN_FILE).read_text(encoding="utf-8"))
        when, run = time.localtime(record["start_time"] / 1000), str(int(record["run"], 16))
    except (OSError, ValueError, KeyError, TypeError):  # somebody else's, or half of one
        when, run = time.localtime(), str(time.time_ns())
    # Two runs may begin in one second, so the run is in the name, too.
    return f"{time.strftime('%Y%m%d-%H%M%S', when)}-{int(run):016x}"


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")


def _as_json(value: object) -> str:
    import json  # 5 ms that only a run without tracking needs

    return json.dumps(value, indent=2)


def _as_yaml(params: dict[str, Any]) -> str:

    import yaml

    return str(yaml.safe_dump(params, sort_keys=False, allow_unicode=True)).rstrip()


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _merge(known: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(known.get(key), dict) and isinstance(value, dict):
            _merge(known[key], value)
        else:
            # MLflow takes no second value of a param either.
            known.setdefault(key, value)
