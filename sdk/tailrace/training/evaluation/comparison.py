"""A model's metrics beside those of another one: which is better, and by how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tailrace.training.measures.metric_names import Metric

__all__ = ["Difference", "compared"]


class Difference(NamedTuple):
    """One metric of two models.

    Attributes:
        metric: Its name.
        value: The model's.
        baseline: The other one's.
        verdict: What the model is: `better`, `worse` or `equal`.
    """

    metric: str
    value: float
    baseline: float
    verdict: Literal["better", "worse", "equal"]

    @property
    def difference(self) -> float:
        """By how much the model's value is larger."""
        return self.value - self.baseline

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4g} against {self.baseline:.4g} ({self.difference:+.4g}): {self.verdict}"


def compared(
    metrics: Iterable[Metric], values: Mapping[str, float], baseline: Mapping[str, float]
) -> tuple[Difference, ...]:
    """The metrics that both have.

    Example:
        >>> [str(each) for each in compared(metrics_of("rmse"), {"rmse": 2.0}, {"rmse": 3.0})]
        ['rmse 2 against 3 (-1): better']
    """
    return tuple(
        Difference(each.name, values[each.name], baseline[each.name], _verdict(each, values, baseline))
        for each in metrics
        if each.name in values and each.name in baseline
    )


def _verdict(
    metric: Metric, values: Mapping[str, float], baseline: Mapping[str, float]
) -> Literal["better", "worse", "equal"]:
    value, other = values[metric.name], baseline[metric.name]
    if value == other:
        return "equal"
    return "better" if (value > other) is metric.greater_is_better else "worse"
