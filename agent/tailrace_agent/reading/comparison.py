"""Runs side by side: what differs between them first, as a table, a DataFrame and a figure.

A `Comparison` is a pandas DataFrame with one row for each run and MLflow's column names (`params.lr`, `metrics.loss`).
Columns in which the runs differ come before those in which they do not, params before metrics, and those of the machine
(`system/`) last, since they differ in any two runs, unless they were requested by name. Each metric has its smallest
and largest value beside the last (`metrics.loss.min`, `metrics.loss.max`), unless that was turned off. Where the store
has a metric of such a name, the column is that metric's, and the smallest or largest value of the other one has none.

Its figure reads the metrics' histories when it is drawn, from the store that the comparison came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from tailrace_agent.errors import NotFound
from tailrace_agent.mlflow.names import stored_among
from tailrace_agent.reading.candidates import nearest
from tailrace_agent.spool.extremes import SYSTEM_KEYS, machine_last, of_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from matplotlib.figure import Figure

    from tailrace_agent.reading.reader import Reader

__all__ = ["Comparison", "compare", "matching", "metric_history"]

_IN_LABEL: Final = 3
"""Params in the name of a line."""

_ENDS: Final = ("min", "max")
_FACTS = ("run_name", "status", "start_time", "duration")


class Comparison(pd.DataFrame):
    """Runs side by side; see `compare_runs`. Whatever pandas can do with a frame works, apart from `plot`.

    Example:
        >>> comparison = tailrace.compare_runs(["baseline", "wide"], metrics=["val/*"])
        >>> comparison.plot(save="runs.png")
    """

    _metadata = ["_ends", "_named", "_reader"]  # noqa: RUF012 - pandas' own way to keep an attribute through slicing
    _reader: Reader | None = None
    _named: bool = False
    _ends: frozenset[str] = frozenset()

    @property
    def _constructor(self) -> Callable[..., Comparison]:
        return Comparison

    @property
    def differing(self) -> list[str]:
        """Columns of params and metrics that are not the same in every run.

        Metrics of the machine (`system/`) are left out, unless metrics were requested by name.
        """
        return [column for column in _values(self) if not (self._aside(column) or _same(self[column]))]

    @property
    def machine(self) -> list[str]:
        """Columns that `differing` leaves out: metrics of the machine, unless metrics were requested by name."""
        return [column for column in _values(self) if self._aside(column)]

    @property
    def ends(self) -> frozenset[str]:
        """Columns that hold a metric's smallest or largest value, and are no metrics of their own."""
        return self._ends

    def _aside(self, column: str) -> bool:
        return not self._named and column.startswith(f"metrics.{SYSTEM_KEYS}")

    def plot(  # type: ignore[override]  # pandas' accessor makes way for the figure that one wants of runs
        self,
        metrics: Sequence[str] | str | None = None,
        *,
        x: str = "step",
        save: str | PathLike[str] | None = None,
    ) -> Figure:
        """Draws each metric over the steps, one line for each run.

        Args:
            metrics: Names or patterns (`val/*`); by default the first six of this comparison, system metrics left out.
            x: `step`, or `time`: seconds since the run's first point.
            save: File to write the figure to; its ending selects the format (`.png`, `.svg`, `.pdf`).

        Returns:
            A matplotlib figure. It belongs to no window; a notebook shows it.

        Raises:
            NotFound: No metric of these runs fits.
            ValueError: `x` is neither.
        """
        from tailrace_agent.reading.comparison_plot import Curves, draw

        if x not in ("step", "time"):
            raise ValueError(f"x is 'step' or 'time', not {x!r}")
        chosen, reader, ids = _chosen(self, metrics), self._reader, [str(run_id) for run_id in self.index]
        if reader is None:  # after `pd.concat`, `merge` or a pickle
            raise NotFound("this frame does not know its runs' store any more; plot what compare_runs() has returned")
        figure = draw(Curves(_labels(self), chosen, lambda run, metric: reader.history(ids[run], metric), x))
        if save is not None:
            figure.savefig(save, dpi=150)
        return figure


def compare(reader: Reader, runs: Sequence[Any], metrics: Sequence[str] | str | None) -> Comparison:
    """Puts runs side by side.

    Args:
        reader: Where they come from.
        runs: The runs, as `Reader.find_all` gives them, in the order of the rows.
        metrics: Names or patterns of the metrics to compare, each with its smallest and largest value; None for all
            metrics (of system metrics the last value only); none at all (`()`) for the last value of all.

    Raises:
        NotFound: No metric of these runs fits a name or pattern.
    """
    records = [reader.record(run) for run in runs]
    known = sorted({key for record in records for key in record.metrics}, key=machine_last)
    keys = matching(known, metrics) if metrics else known
    bounded = [key for key in keys if metrics or (metrics is None and of_program(key))]
    run_ids = [record.run_id for record in records]
    columns: dict[str, list[Any]] = {}
    for key in sorted({key for record in records for key in record.params}):
        columns[f"params.{key}"] = [record.params.get(key) for record in records]
    bounds = reader.extremes(runs, bounded) if bounded else {}
    nothing, ends = (np.nan, np.nan), list[str]()
    for key in keys:
        columns[f"metrics.{key}"] = [record.metrics.get(key, np.nan) for record in records]
        if key in bounded:
            for i, end in enumerate(_ENDS):
                # A metric of that very name keeps its column, also where it was not requested.
                if f"{key}.{end}" not in known:
                    ends.append(f"metrics.{key}.{end}")
                    columns[ends[-1]] = [bounds.get((run_id, key), nothing)[i] for run_id in run_ids]
    facts = {name: [getattr(record, name) for record in records] for name in _FACTS}
    frame = Comparison({**facts, **columns}, index=pd.Index(run_ids, name="run_id"))
    # Before `differing` is looked at, which depends on it; pandas carries them into every part of the frame.
    frame._reader, frame._named, frame._ends = reader, bool(metrics), frozenset(ends)
    first, last = frame.differing, frame.machine
    placed = {*first, *last}
    ordered = frame[[*_FACTS, *first, *(column for column in columns if column not in placed), *last]]
    assert isinstance(ordered, Comparison)
    return ordered


def matching(known: Iterable[str], wanted: Sequence[str] | str) -> list[str]:
    """The names that fit, in the order of what is wanted; one that MLflow could not have fits by what it has become.

    Raises:
        NotFound: Nothing fits one of them.
    """
    known, found = list(known), dict[str, None]()
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        # The very name first, or what it has become: it may hold a `[` or `*`.
        stored = stored_among(pattern, known)
        fitting = [stored] if stored is not None else [name for name in known if fnmatchcase(name, pattern)]
        if not fitting:
            some = ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
            raise NotFound(f"no metric fits {pattern!r}; there are: {some or 'none at all'}{nearest(pattern, known)}")
        found.update(dict.fromkeys(fitting))
    return list(found)


def metric_history(reader: Reader, run_id: str, keys: Sequence[str]) -> pd.DataFrame:
    """Every point of these metrics: columns `key`, `step`, `timestamp`, `value`, sorted by them."""
    frames = []
    for key in keys:
        pieces = list(reader.history(run_id, key))
        steps, times, values = (
            np.concatenate([piece[i] for piece in pieces])
            if pieces
            else np.empty(0, np.float64 if i == 2 else np.int64)
            for i in range(3)
        )
        order = np.lexsort((values, times, steps))  # the last key is the first to be sorted by
        moments = pd.DatetimeIndex(times[order].astype("datetime64[ms]")).tz_localize("UTC")
        frames.append(pd.DataFrame({"key": key, "step": steps[order], "timestamp": moments, "value": values[order]}))
    if frames:
        return pd.concat(frames, ignore_index=True)
    return pd.DataFrame(
        {
            "key": pd.Series(dtype="str"),
            "step": pd.Series(dtype="int64"),
            "timestamp": pd.Series(dtype="datetime64[ms, UTC]"),
            "value": pd.Series(dtype="float64"),
        }
    )


def _values(frame: pd.DataFrame) -> list[str]:
    return [column for column in frame.columns if str(column).startswith(("params.", "metrics."))]


def _same(column: Any) -> bool:
    return bool(column.nunique(dropna=False) <= 1)


def _chosen(frame: Comparison, metrics: Sequence[str] | str | None) -> list[str]:
    columns = [str(column) for column in frame.columns if str(column) not in frame.ends]
    known = [column.removeprefix("metrics.") for column in columns if column.startswith("metrics.")]
    if metrics is not None:
        return matching(known, metrics)
    chosen = [name for name in known if of_program(name)][:6] or known[:6]
    if not chosen:
        raise NotFound("these runs have no metrics to draw")
    return chosen


def _labels(frame: Comparison) -> list[str]:
    """Each run's name with the params that distinguish it."""
    differing = [column for column in frame.differing if column.startswith("params.")][:_IN_LABEL]
    labels = []
    for run_id, row in frame.iterrows():
        params = ", ".join(f"{column.removeprefix('params.')}={row[column]}" for column in differing if row[column])
        name = str(row["run_name"] or str(run_id)[:8])
        labels.append(f"{name} ({params})" if params else name)
    twice = {label for label in labels if labels.count(label) > 1}
    return [
        f"{label} [{str(run_id)[:8]}]" if label in twice else label
        for label, run_id in zip(labels, frame.index, strict=True)
    ]
