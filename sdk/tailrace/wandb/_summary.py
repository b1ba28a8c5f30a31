"""`run.summary`: the last value of everything that was logged, and what is set beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from tailrace.wandb._guard import guarded
from tailrace.wandb._steps import Metric
from tailrace.wandb._values import nested, number_of

__all__ = ["Summary"]


class Summary(MutableMapping[str, Any]):
    """A run's summary. MLflow itself shows the last value of each metric; what is set here goes there, too.

    Args:
        publish: Called with what is set, by name.

    Example:
        >>> run.summary["best_accuracy"] = 0.93
        >>> run.summary.update({"note": "converged"})
    """

    def __init__(self, publish: Callable[[dict[str, Any]], None]) -> None:
        self.__dict__["_publish"], self.__dict__["_values"] = publish, dict[str, Any]()
        self.__dict__["_sums"], self.__dict__["_extremes"] = dict[str, tuple[float, int]](), dict[str, float]()

    @guarded()
    def update(self, d: Any = (), **more: Any) -> None:  # type: ignore[override]
        """Sets several values.

        Args:
            d: The values by name.
            **more: Values by name.
        """
        values = {**dict(d), **more}
        self._values.update(values)
        self._publish(values)

    def note(self, values: Mapping[str, Any], defined: Callable[[str], Metric | None]) -> None:
        """Values that were logged: the last ones count, and what `define_metric` wants to know of them.

        A tensor stays where it is until somebody reads it; one that has a summary defined is waited for.
        """
        # Without what it was computed from, which would stay in memory.
        self._values.update(
            {key: value.detach() if hasattr(value, "detach") else value for key, value in values.items()}
        )
        for key, value in values.items():
            metric = defined(key)
            number = number_of(value) if metric is not None and metric.summary else None
            if metric is not None and number is not None and not math.isnan(number):
                self._note_extremes(key, number, metric.summary)

    def restore(self, values: Mapping[str, Any]) -> None:
        """Has what is known elsewhere already: it goes nowhere."""
        self._values.update(values)

    def extremes(self) -> dict[str, float]:
        """`loss.min` and its like, by name."""
        return dict(self._extremes)

    def __getitem__(self, key: str) -> Any:
        values = self.__dict__["_values"]
        if key not in values and (below := self._below(f"{key}.")):
            return below
        return _read(values[key])

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the summary has no {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __repr__(self) -> str:
        return repr(self._values)

    __hash__ = None  # type: ignore[assignment]

    def _below(self, prefix: str) -> dict[str, Any]:
        """What was logged as a dictionary, as that; it has names such as `train.loss` here."""
        values = [*self._values.items()]
        return nested({name.removeprefix(prefix): _read(value) for name, value in values if name.startswith(prefix)})

    def _note_extremes(self, key: str, value: float, wanted: frozenset[str]) -> None:
        total, count = self._sums.get(key, (0.0, 0))
        self._sums[key] = total + value, count + 1
        known = self._extremes
        found = {
            "min": min(value, known.get(f"{key}.min", value)),
            "max": max(value, known.get(f"{key}.max", value)),
            "mean": (total + value) / (count + 1),
        }
        known.update({f"{key}.{end}": each for end, each in found.items() if end in wanted})
        self._values.update(known)


def _read(value: Any) -> Any:
    return number_of(value) if hasattr(value, "detach") else value
