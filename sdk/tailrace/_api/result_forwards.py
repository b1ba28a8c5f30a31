"""Calls that MLflow does not have, passed on to the active run: frames, back-tests, training metrics and configs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tailrace._api.tracker_part import TrackerPart

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ActiveResultCalls"]


class ActiveResultCalls(TrackerPart):
    """`log_dataframe` and its kin, for the active run or one that is named. A base of `Tracker`."""

    def log_dataframe(
        self,
        df: Any,
        name: str,
        format: Literal["parquet", "csv"] | None = None,  # noqa: A002
        run_id: str | None = None,
    ) -> None:
        """Logs a data frame as it is now, as one Parquet or CSV file; it is written in the background.

        The call takes as long as a copy of the frame in memory: 12 ms for a pandas frame of 80 MB. Arrow tables and
        Polars frames never change, and are not copied.

        Args:
            df: A pandas frame or Series, or anything with Arrow's PyCapsule interface (Polars, DuckDB, an Arrow table)
                or the dataframe interchange protocol, or columns in a dictionary.
            name: Where in the run's artifacts (`eval/predictions`); the extension is added where it is missing.
            format: `parquet` or `csv`; by default that of the extension, else Parquet.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.

        Raises:
            CallError: Under `strict=True`: it is no frame, or the format is none.

        Thread safety: any thread; leave the frame alone during the call.

        Example:
            >>> tailrace.log_dataframe(predictions, "eval/predictions")
            >>> tailrace.log_dataframe(predictions.head(100), "eval/sample.csv")
        """
        self._to(run_id).log_dataframe(df, name, format)

    def log_backtest(
        self, name: str, metrics: Mapping[str, Any], equity: Any = None, trades: Any = None, run_id: str | None = None
    ) -> None:
        """Logs the results of a back-test: its metrics, and its equity and trades as they are now.

        The metrics become `backtest/<name>/<snake_case>`: `"Sharpe Ratio"` becomes `sharpe_ratio`, `"Max. Drawdown
        [%]"` `max_drawdown_pct`. The files are `equity.parquet`, `trades.parquet`, and `equity.png` with equity and
        drawdown, in `backtest/<name>/`; they are written and drawn in the background.

        Args:
            name: Of the back-test.
            metrics: Numbers by name, in any spelling; a pandas Series will do.
            equity: Values (a list, an array of one dimension, a Series), or a frame with a column `equity`, or with the
                equity as its first column of numbers. Times, in the index or a column, become the x-axis.
            trades: A frame, or a list of dictionaries.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.

        Raises:
            CallError: Under `strict=True`: the name is no path in the run, or something is no table.

        Thread safety: any thread; leave the frames alone during the call.

        Example:
            >>> tailrace.log_backtest("momentum", {"Sharpe Ratio": 1.4}, equity=[100.0, 101.5, 99.0])
        """
        self._to(run_id).log_backtest(name, metrics, equity, trades)

    def log_training_metrics(
        self, metrics: Mapping[str, Any] | None = None, /, *, step: int | None = None, **values: Any
    ) -> None:
        """Logs training and validation metrics in one call: `loss` as `train/loss`, `val_loss` as `val/loss`.

        `test_…` becomes `test/…`, too. A name with a slash in it stays as it is. Of two that become the same the first
        one is logged, and the other one reported. Otherwise as `log`.

        Args:
            metrics: Metrics by name, such as the `logs` of a Keras callback.
            step: Training step or epoch; without it, the run's own counter.
            **values: Metrics as keywords.

        Raises:
            CallError: Under `strict=True`: a value is no number, the step is no integer, or two names become the same.

        Thread safety: any thread.

        Example:
            >>> tailrace.log_training_metrics(step=3, loss=0.31, val_loss=0.42)
        """
        self._to(None).log_training_metrics(metrics, step=step, **values)

    def log_config(self, config: Any, artifact_file: str = "config/config.yaml", run_id: str | None = None) -> None:
        """Logs a whole configuration: flattened as params (`model.layers`), and as it is as an artifact.

        Args:
            config: Whatever `log_params` takes: a mapping, a model, a namespace, a config of OmegaConf or Hydra.
            artifact_file: Where in the run's artifacts. The file is YAML that any reader takes, in the order given;
                what YAML does not know becomes a string, and what cannot be read is left out.
            run_id: MLflow's id of the run to log to; the active run when None, and a new one where none is active.

        Raises:
            CallError: Under `strict=True`: it is nothing that has names, or something of it cannot be read.

        Thread safety: any thread.

        Example:
            >>> tailrace.log_config({"model": {"layers": 12}, "lr": 3e-4})
        """
        self._to(run_id).log_config(config, artifact_file)
