"""Calls that MLflow does not have: frames, back-tests, training metrics and configs."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

from tailrace._api.artifacts import ArtifactCalls
from tailrace._api.metrics import MetricCalls
from tailrace._api.params import ParamCalls
from tailrace._values.params import plain_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace._values.params import Unreadable

__all__ = ["ResultCalls"]

_PHASES: Final = ("train", "val", "test")


class ResultCalls(MetricCalls, ParamCalls, ArtifactCalls):
    """`log_dataframe` and its kin. A base of `Run`."""

    def log_dataframe(self, df: Any, name: str, format: Literal["parquet", "csv"] | None = None) -> None:  # noqa: A002
        """Logs a data frame as it is now, as one Parquet or CSV file; it is written in the background.

        The call takes as long as a copy of the frame in memory: 12 ms for a pandas frame of 80 MB. Arrow tables and
        Polars frames never change, and are not copied.

        Args:
            df: A pandas frame or Series, or anything with Arrow's PyCapsule interface (Polars, DuckDB, an Arrow
                table) or the dataframe interchange protocol, or columns in a dictionary.
            name: Where in the run's artifacts (`eval/predictions`); the extension is added where it is missing.
            format: `parquet` or `csv`; by default that of the extension, else Parquet.

        Raises:
            CallError: Under `strict=True`: it is no frame, or the format is none.

        Thread safety: any thread; leave the frame alone during the call.

        Example:
            >>> run.log_dataframe(predictions, "eval/predictions")
            >>> run.log_dataframe(predictions.head(100), "eval/sample.csv")
        """
        from tailrace._artifacts.dataframes import freeze_dataframe

        self._capture("log_dataframe", freeze_dataframe, df, name, format)

    def log_backtest(self, name: str, metrics: Mapping[str, Any], equity: Any = None, trades: Any = None) -> None:
        """Logs the results of a back-test: its metrics, and its equity and trades as they are now.

        The metrics become `backtest/<name>/<snake_case>`: `"Sharpe Ratio"` and `"sharpeRatio"` both `sharpe_ratio`,
        `"Max. Drawdown [%]"` `max_drawdown_pct`. The files are `equity.parquet`, `trades.parquet`, and `equity.png`
        with equity and drawdown, in `backtest/<name>/`; they are written and drawn in the background.

        Args:
            name: Of the back-test.
            metrics: Numbers by name, in any spelling; a pandas Series will do.
            equity: Values (a list, an array, a Series), or a frame with a column `equity`, or with the equity as its
                first column of numbers. Times, in the index or a column, become the x-axis.
            trades: A frame, or a list of dictionaries.

        Raises:
            CallError: Under `strict=True`: the name is no path in the run, or something is no table.

        Thread safety: any thread; leave the frames alone during the call.

        Example:
            >>> run.log_backtest("momentum", {"Sharpe Ratio": 1.4}, equity=[100.0, 101.5, 99.0])
        """
        if self._core.connection is None and self._core.local is None:
            return
        from tailrace._artifacts.backtest import can_draw, freeze_backtest, metrics_of
        from tailrace._artifacts.captured import BadArtifact

        found: dict[str, Any] = {}
        rejected: list[str] = []
        try:
            found, rejected = metrics_of(name, metrics)
        except BadArtifact as error:  # equity and trades may be good all the same
            self._core.fault(f"log_backtest: {error}", once=("backtest", str(error)))
        for key in rejected:
            self._core.fault(
                f"log_backtest: metric {key!r} was not logged: it has no word in it, or has come up before",
                once=("backtest", name, key),
            )
        if found:
            # A result has no step: at 0 a second back-test of that name stands at the same place.
            self._log(found, step=0)
        if equity is not None:
            draw = can_draw()
            if not draw:
                self._core.voice.warn(
                    "log_backtest draws no equity.png: matplotlib is not installed", once="matplotlib"
                )
            self._capture("log_backtest", freeze_backtest, name, "equity", equity, draw=draw, picture=draw)
        if trades is not None:
            self._capture("log_backtest", freeze_backtest, name, "trades", trades)

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
            >>> run.log_training_metrics(step=3, loss=0.31, val_loss=0.42)
        """
        named: dict[Any, Any] = {}
        again = []
        try:
            for key, value in {**(metrics or {}), **values}.items():
                # Two spellings of one name would be two values at one step: the first one stays.
                if _phased(key) in named:
                    again.append(key)
                else:
                    named[_phased(key)] = value
        except TypeError:  # no mapping, which `log` reports better
            self._log(metrics, step=step)
            return
        self._log(named, step=step)
        for key in again:
            self._core.fault(
                f"log_training_metrics: metric {key!r} was not logged: {_phased(key)!r} has come up before",
                once=("training", key),
            )

    def log_config(self, config: Any, artifact_file: str = "config/config.yaml") -> None:
        """Logs a whole configuration: flattened as params (`model.layers`), and as it is as an artifact.

        Args:
            config: Whatever `log_params` takes: a mapping, a model, a namespace, a config of OmegaConf or Hydra.
            artifact_file: Where in the run's artifacts. The file is YAML that any reader takes, in the order given;
                what YAML does not know becomes a string, and what cannot be read is left out.

        Raises:
            CallError: Under `strict=True`: it is nothing that has names, or something of it cannot be read.

        Thread safety: any thread.

        Example:
            >>> run.log_config({"model": {"layers": 12}, "lr": 3e-4})
        """
        if self._core.connection is None and self._core.local is None:
            return
        from tailrace._artifacts.documents import freeze_config

        unreadable: list[Unreadable] = []
        try:
            whole = plain_config(config, unreadable)
        except TypeError as error:
            self._core.fault(f"log_config: {error}", once=("config", str(error)))
            return
        # The file before the params: under `strict` one of those that cannot be read raises.
        self._capture("log_config", freeze_config, whole, artifact_file)
        self.log_params(config)
        self._warn_unreadable(unreadable)  # reported already where params are logged


# The same few names come at every step.
@lru_cache(maxsize=4096)
def _phased(key: Any) -> Any:
    """`val_loss` as `val/loss`, `loss` as `train/loss`; what is no name is left to `log`."""
    if not isinstance(key, str) or "/" in key:
        return key
    phase, _, rest = key.partition("_")
    return f"{phase}/{rest}" if rest and phase in _PHASES else f"train/{key}"
