"""Reading runs back, from the tracking URI in force. What is still on its way is not there yet: `flush()` first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tailrace._api.readers import reader_at
from tailrace._api.tracker_part import TrackerPart
from tailrace._values.texts import as_name
from tailrace_agent.errors import CallError, NotFound, StoreAbsent
from tailrace_agent.runtime.places import working_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from tailrace_agent.reading.comparison import Comparison
    from tailrace_agent.reading.reader import Reader
    from tailrace_agent.reading.record import RunRecord

__all__ = ["ReadCalls"]

_SEARCHED = 100_000  # MLflow's own default
_LOOKED_AT = 100  # runs, for names of metrics that may have been meant


class ReadCalls(TrackerPart):
    """`search_runs` and its kin. A base of `Tracker`.

    They raise when the store is away or knows no such run: who reads wants an answer, and no training is at stake.
    """

    def search_runs(
        self,
        experiment_ids: list[str] | None = None,
        filter_string: str = "",
        run_view_type: int = 1,  # a number, since ViewType would take an import of MLflow
        max_results: int = _SEARCHED,
        order_by: list[str] | str | None = None,
        output_format: Literal["pandas", "list"] = "pandas",
        search_all_experiments: bool = False,
        experiment_names: list[str] | str | None = None,
    ) -> pd.DataFrame | list[RunRecord]:
        """Searches runs, as `mlflow.search_runs` does, with the same columns.

        Args:
            experiment_ids: Experiments by id, a list; by default the one that runs go to now. It comes first as in
                MLflow: a filter is given as `filter_string=`.
            filter_string: In MLflow's filter language: `"metrics.val/loss < 0.1 and params.model = 'cnn'"`. Names need
                no quotes.
            run_view_type: MLflow's `ViewType`: 1 active runs, 2 deleted ones, 3 all.
            max_results: How many at most.
            order_by: Columns, each with `ASC` or `DESC`: `["metrics.val/loss ASC"]`. Names need no quotes.
            output_format: `pandas` for a DataFrame, `list` for a list of `RunRecord`.
            search_all_experiments: Look in every experiment, if none is named.
            experiment_names: Experiments by name. One that there is not has no runs: a warning says so, with the name
                that is nearest.

        Returns:
            Columns `run_id`, `experiment_id`, `status`, `artifact_uri`, `start_time`, `end_time`, then `metrics.…`,
            `params.…`, `tags.…`.

        Raises:
            CallError: Ids and names are given, the ids are a text, one of them is no name, or there is no such format.
            SinkError, StoreRefused: The store is away, refuses the filter, or cannot be used.

        Thread safety: from any thread.

        Example:
            >>> tailrace.search_runs(filter_string="metrics.val/loss < 0.1", order_by=["metrics.val/loss ASC"])
        """
        if output_format not in ("pandas", "list"):
            raise CallError(f"output_format is 'pandas' or 'list', not {output_format!r}")
        if isinstance(experiment_ids, str):
            raise CallError(_not_a_list(experiment_ids))
        if experiment_ids and experiment_names:
            raise CallError("Only experiment_ids or experiment_names can be used, but not both")
        try:
            reader = self._read()
            ids = self._where(reader, experiment_ids, experiment_names, everywhere=search_all_experiments, sure=False)
            order = [order_by] if isinstance(order_by, str) else order_by
            runs = reader.search(ids, filter_string, order, max_results, view=run_view_type)
            records = [reader.record(run) for run in runs]
        except StoreAbsent as error:  # as with MLflow, who looks before the first run finds none
            self._core.voice.warn(f"search_runs: {error}", once=("search_runs", str(error)))
            records = []
        return records if output_format == "list" else _frame(records)

    def get_run_info(self, run_id: str) -> RunRecord:
        """What MLflow has of one run.

        Args:
            run_id: MLflow's id, tailrace's id, the beginning of one, the run's name, or the beginning of its name.
                Of several runs with that name it is the newest, and a warning names the others.

        Returns:
            Its status, times, params, last metrics and tags.

        Raises:
            NotFound: No run fits, or the beginning fits several; the message names them.
            SinkError, StoreRefused: The store is away, or cannot be used.

        Example:
            >>> tailrace.get_run_info("baseline").metrics["loss"]
            0.031
        """
        reader = self._read()
        return reader.record(reader.find(run_id, self._chose))

    def best_run(
        self,
        metric: str,
        mode: Literal["min", "max"] = "min",
        *,
        filter_string: str = "",
        experiment_names: list[str] | str | None = None,
        search_all_experiments: bool = False,
    ) -> RunRecord:
        """The run whose last value of a metric is the smallest, or the largest; NaN is never the best.

        Args:
            metric: Its name.
            mode: `min` or `max`.
            filter_string: Only among runs that fit; as in `search_runs`.
            experiment_names: Where to look; by default the experiment that runs go to now.
            search_all_experiments: Look in every experiment.

        Returns:
            The run, with its params, last metrics and tags.

        Raises:
            CallError: `mode` is neither.
            NotFound: No run has the metric.
            SinkError, StoreRefused: The store is away, refuses the filter, or cannot be used.

        Example:
            >>> tailrace.best_run("val/accuracy", "max").params
            {'lr': '0.1'}
        """
        from tailrace_agent.mlflow.names import stored_name
        from tailrace_agent.reading.candidates import nearest

        if mode not in ("min", "max"):
            raise CallError(f"mode is 'min' or 'max', not {mode!r}")
        reader = self._read()
        ids = self._where(reader, None, experiment_names, everywhere=search_all_experiments)
        for name in dict.fromkeys((stored_name(metric), metric)):  # some stores take names that MLflow refuses
            # Sorted by the store: to compare here would take every run's metrics over the network.
            found = reader.search(ids, filter_string, [f"metrics.{name} {'ASC' if mode == 'min' else 'DESC'}"], 1)
            record = reader.record(found[0]) if found else None
            # MLflow sorts NaN after every number, and runs without the metric after those.
            value = record.metrics.get(name) if record is not None else None
            if record is not None and value is not None and value == value:  # noqa: PLR0124 - NaN differs from itself
                return record
        known = {key for run in reader.search(ids, filter_string, None, _LOOKED_AT) for key in run.data.metrics}
        near = nearest(metric, known - {metric})
        raise NotFound(f"no run has a number for metric {metric!r}, where {reader.name} was searched{near}")

    def compare_runs(self, run_ids: Sequence[str], metrics: Sequence[str] | str | None = None) -> Comparison:
        """Puts runs side by side: params and metrics, those that differ first.

        Args:
            run_ids: Runs, each as `get_run_info` takes it. Whole ids are read in one search, however many there are.
            metrics: Names or patterns (`["loss", "val/*"]`; `"*"` for all) of metrics to compare by their last,
                smallest and largest value; by default all, system metrics by their last value only. The smallest and
                largest take one grouped query in a database. Over HTTP, tailrace has noted them with the runs that it
                has logged; of other runs every point of the histories is read: name few metrics of long ones, or none
                (`[]`) for the last values alone.

        Returns:
            A pandas DataFrame, one row for each run, columns `params.lr`, `metrics.loss`, `metrics.loss.min`, …;
            `plot()` draws the metrics over the steps, `differing` names the columns in which the runs differ, system
            metrics left out unless `metrics` names them.

        Raises:
            NotFound: No run fits one of the names, or a beginning fits several; or no metric fits.
            SinkError, StoreRefused: The store is away, or cannot be used.

        Example:
            >>> tailrace.compare_runs(["baseline", "wide"], metrics=["loss"]).plot(save="loss.png")
        """
        from tailrace_agent.reading.comparison import compare

        reader = self._read()
        wanted = [run_ids] if isinstance(run_ids, str) else list(run_ids)
        return compare(reader, reader.find_all(wanted, self._chose), metrics)

    def metric_history(self, run_id: str, keys: Sequence[str] | str | None = None) -> pd.DataFrame:
        """Every point of a run's metrics.

        Args:
            run_id: The run, as `get_run_info` takes it.
            keys: Names or patterns (`"loss"`, `["train/*"]`); all metrics by default. A name that MLflow cannot have
                finds what it is stored as.

        Returns:
            Columns `key`, `step`, `timestamp` (UTC), `value`, sorted by key, step and time. NaN and infinities are
            what they were, also where MLflow's database could not keep them.

        Raises:
            NotFound: No run fits, or a beginning fits several; or the run has no such metric.
            SinkError, StoreRefused: The store is away, or cannot be used.

        Example:
            >>> tailrace.metric_history("baseline", "loss").set_index("step")["value"]
        """
        from tailrace_agent.reading.comparison import matching, metric_history

        reader = self._read()
        run = reader.find(run_id, self._chose)
        known = sorted(run.data.metrics)
        return metric_history(reader, run.info.run_id, known if keys is None else matching(known, keys))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _chose(self, text: str, run_id: str) -> None:
        """Of several runs with one name, the newest was taken."""
        self._core.voice.warn(text, once=("newest", run_id))

    def _read(self) -> Reader:
        """The store in force."""
        return reader_at(self._core.settings({}).tracking_uri, working_directory())

    def _where(
        self,
        reader: Reader,
        ids: Sequence[str] | None,
        names: Sequence[str] | str | None,
        *,
        everywhere: bool,
        sure: bool = True,
    ) -> list[str] | None:
        """Experiment ids to search; None for all of them. Unless `sure`, what there is not is left out."""
        if ids:
            return [as_name(experiment_id, "one of experiment_ids") for experiment_id in ids]
        if names:
            return self._named(reader, [names] if isinstance(names, str) else names, sure=sure, warn=True)
        if everywhere:
            return None
        if self._core.experiment_id is not None:
            return [self._core.experiment_id]
        name = self._core.settings({}).experiment_name
        # "0": MLflow's experiment `Default`. One that was only set so far is made by its first run.
        return self._named(reader, [name], sure=sure, warn=False) if name else ["0"]

    def _named(self, reader: Reader, names: Sequence[str | None], *, sure: bool, warn: bool) -> list[str]:
        """Ids of experiments by their names; unless `sure`, without those that there are not."""
        if sure:
            return reader.experiment_ids([as_name(name, "one of experiment_names") for name in names])
        found: list[str] = []
        for name in names:
            try:
                # None finds nothing, as with MLflow.
                found += reader.experiment_ids(["None" if name is None else as_name(name, "one of experiment_names")])
            except NotFound as error:
                if warn:
                    self._core.voice.warn(f"search_runs: {error}", once=("search_runs", str(error)))
        return found


def _not_a_list(text: str) -> str:
    from tailrace_agent.reading.filters import looks_like_filter

    if looks_like_filter(text):
        return f"search_runs takes experiment_ids first, as MLflow's does: write search_runs(filter_string={text!r})"
    return (
        f"experiment_ids is a list of ids, not the text {text!r}: write experiment_ids=[{text!r}], "
        f"or for an experiment's name experiment_names=[{text!r}]"
    )


def _frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    import pandas as pd

    facts = ("run_id", "experiment_id", "status", "artifact_uri", "start_time", "end_time")
    columns: dict[str, Any] = {name: [getattr(record, name) for record in records] for name in facts}
    for name in ("start_time", "end_time"):
        columns[name] = pd.to_datetime(pd.Series(columns[name], dtype="object"), utc=True)
    for group, nothing in (("metrics", float("nan")), ("params", None), ("tags", None)):
        every = [getattr(record, group) for record in records]
        for key in sorted({key for each in every for key in each}):
            columns[f"{group}.{key}"] = [each.get(key, nothing) for each in every]
    return pd.DataFrame(columns)
