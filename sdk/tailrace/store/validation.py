"""What MLflow refuses of a call, refused at the call by its own functions; names that were good are remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlflow.utils.validation import (
    _validate_batch_log_limits,
    _validate_metric,
    _validate_param,
    _validate_param_keys_unique,
    _validate_tag,
)

from tailrace._api.metrics import LAST_TIMESTAMP
from tailrace.store.overlay import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "STEPS",
    "all_known",
    "checked_batch",
    "checked_metric",
    "checked_param",
    "checked_tag",
    "fits_a_row",
    "is_text",
]

STEPS: Final = 2**63
"""A row has steps below it, and above the negative of it, as the columns of MLflow's databases do."""

_REMEMBERED_AT_MOST: Final = 10_000
_good: set[str] = set()
all_known: Final[Callable[[Iterable[str]], bool]] = _good.issuperset
"""Whether MLflow has taken metrics of all of these names before."""


def checked_batch(
    metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]
) -> tuple[list[Value], list[Any], list[Any]]:
    """The entries of a `log_batch` as MLflow would store them.

    Raises:
        MlflowException: MLflow takes none of it.
    """
    values = [_checked(metric, "metrics[{}]", index) for index, metric in enumerate(metrics)]
    checked = [_validate_param(param.key, param.value, path=f"params[{at}]") for at, param in enumerate(params)]
    texts = [_validate_tag(tag.key, tag.value, path=f"tags[{at}]") for at, tag in enumerate(tags)]
    _validate_batch_log_limits(values, checked, texts)
    _validate_param_keys_unique(checked)
    return values, checked, texts


def checked_metric(metric: Any) -> Value:
    """The metric of a `log_metric`.

    Raises:
        MlflowException: MLflow does not take it.
    """
    return _checked(metric, "", 0)


def checked_param(param: Any) -> Any:
    """The param of a `log_param`, cut to MLflow's length.

    Raises:
        MlflowException: MLflow does not take it.
    """
    return _validate_param(param.key, param.value)


def checked_tag(tag: Any) -> Any:
    """The tag of a `set_tag`, cut to MLflow's length.

    Raises:
        MlflowException: MLflow does not take it.
    """
    return _validate_tag(tag.key, tag.value)


def fits_a_row(value: Value) -> bool:
    """Whether the ring can have it as it is: what a store makes of half a step, or of a time that is none, it knows."""
    _, _, timestamp, step = value
    return bool(
        -STEPS < step < STEPS and step == int(step) and timestamp <= LAST_TIMESTAMP and timestamp == int(timestamp)
    )


def is_text(*entries: Any) -> bool:
    """Whether the values of MLflow's params or tags can be written: half of a pair of surrogates cannot."""
    try:
        for entry in entries:
            entry.value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(metric: Any, path: str, index: int) -> Value:
    key, value, timestamp, step = metric.key, metric.value, metric.timestamp, metric.step
    if not (  # a known name and plain numbers: nothing can be wrong
        key in _good and type(value) is float and type(step) is int and type(timestamp) is int and timestamp >= 0
    ):
        _validate_metric(key, value, timestamp, step, path=path.format(index))
        if len(_good) < _REMEMBERED_AT_MOST:
            _good.add(key)
    return key, value, timestamp, step
