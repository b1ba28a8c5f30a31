"""The evaluation rounds of XGBoost and LightGBM: logged as step metrics, each as it is done.

`train/logloss_round` and `val/logloss_round` are what the booster itself has measured; `train/…` without `_round` is
the finished model's. The callback is gone from the estimator afterwards, so that it can be copied and saved.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal

from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tailrace.training.measures.input_data import Rows

__all__ = ["booster_of", "check_early_stopping", "round_logging"]

Booster = Literal["xgboost", "lightgbm"]
_EARLY: tuple[str, ...] = (
    "early_stopping_rounds",
    "early_stopping_round",
    "early_stopping",
    "n_iter_no_change",
)  # LightGBM takes all of them


def booster_of(estimator: Any) -> Booster | None:
    """Which of the two it belongs to, if to any. Nothing is imported."""
    xgboost, lightgbm = sys.modules.get("xgboost"), sys.modules.get("lightgbm")
    if xgboost is not None and isinstance(estimator, xgboost.XGBModel):
        return "xgboost"
    if lightgbm is not None and isinstance(estimator, lightgbm.LGBMModel):
        return "lightgbm"
    return None


def check_early_stopping(estimator: Any, validation: Rows | None) -> None:
    """A booster that is to stop early needs rows by which it can.

    Raises:
        CallError: There are none.
    """
    if booster_of(estimator) is None or validation is not None:
        return
    if chosen := _early_stopping(estimator):
        raise CallError(
            f"{type(estimator).__name__} has {chosen}, and no rows by which to stop: pass validation=0.2, or "
            "validation=(X, y)"
        )


def _early_stopping(estimator: Any) -> str | None:
    """The parameter by which a booster stops early, as it is written."""
    params = estimator.get_params()
    return next((f"{name}={params[name]}" for name in _EARLY if params.get(name)), None)


@contextlib.contextmanager
def round_logging(
    estimator: Any, rows: Rows, validation: Rows | None, log: Callable[[dict[str, float], int], None] | None
) -> Iterator[dict[str, Any]]:
    """What `fit` is to be called with, so that each round is logged while the block lasts; of other estimators nothing.

    Args:
        estimator: To be fitted.
        rows: To train on; measured, too.
        validation: To validate on, and to stop early by.
        log: Takes metrics and a step; None where the rounds are not of interest.
    """
    booster = booster_of(estimator)
    if booster is None or not _has_rounds(estimator) or (log is None and not _early_stopping(estimator)):
        yield {}
        return
    sets = {"train": rows} if validation is None or log is not None else {}
    if validation is not None:
        sets["val"] = validation
    arguments: dict[str, Any] = {"eval_set": [(each.X, each.y) for each in sets.values()]}
    if booster == "lightgbm":
        callbacks = [] if log is None else [_lightgbm_callback(log)]
        with _eval_set_deprecated():
            yield {**arguments, "eval_names": list(sets), "callbacks": callbacks}
        return
    before = estimator.callbacks
    if log is not None:  # not by set_params, which hands everything to the finished booster once more
        estimator.callbacks = [*(before or ()), _xgboost_callback(list(sets), log)]
    try:
        yield {**arguments, "verbose": False}
    finally:
        estimator.callbacks = before


def _has_rounds(estimator: Any) -> bool:
    """XGBoost's random forests are made in one round, and refuse callbacks."""
    return not type(estimator).__name__.startswith("XGBRF")


@contextlib.contextmanager
def _eval_set_deprecated() -> Iterator[None]:
    """LightGBM 4.7 warns of `eval_set`; what is to take its place does not know labels, nor the rows to train on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The argument 'eval_set' is deprecated")
        yield


def _xgboost_callback(names: list[str], log: Callable[[dict[str, float], int], None]) -> Any:
    from xgboost.callback import TrainingCallback

    class Rounds(TrainingCallback):  # type: ignore[misc]  # XGBoost is not installed everywhere
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:  # noqa: ARG002
            measured = [
                (f"{name}/{key}_round", _last(values))
                for name, metrics in zip(names, evals_log.values(), strict=False)
                for key, values in metrics.items()
            ]
            log(dict(measured), epoch)
            return False

    return Rounds()


def _last(values: Any) -> float:
    """The newest value; of a cross-validation inside XGBoost it has a deviation with it."""
    value = values[-1]
    return float(value[0] if isinstance(value, tuple) else value)


def _lightgbm_callback(log: Callable[[dict[str, float], int], None]) -> Callable[[Any], None]:
    def callback(env: Any) -> None:
        found = env.evaluation_result_list or ()
        log({f"{each[0]}/{each[1]}_round": float(each[2]) for each in found}, env.iteration)

    callback.order = 25  # type: ignore[attr-defined]  # before early stopping, which ends a round by an exception
    return callback
