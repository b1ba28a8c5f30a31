"""What a training has come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TrainingResult"]


class _WhenRead:
    """A field that may be given as a function, which is called when the field is read first.

    MLflow gives the id of a run, and has to be waited for: a search would wait for it after each of its trials, and
    most never read it.
    """

    def __get__(self, result: TrainingResult | None, owner: type) -> str | None:
        if result is None:
            return None  # the default
        value: str | Callable[[], str | None] | None = result.__dict__["run_id"]
        if callable(value):
            value = result.__dict__["run_id"] = value()
        return value

    def __set__(self, result: TrainingResult, value: str | Callable[[], str | None] | None) -> None:
        result.__dict__["run_id"] = value


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainingResult(Mapping[str, Any]):
    """What a training has come to; also a mapping, of its metrics.

    Attributes:
        run_id: MLflow's id of the run, waited for when it is read; None where MLflow has not created it in time, and
            with tracking off.
        metrics: The last and best values by their short names (`best_val_loss`, `best_epoch`, `total_steps`).
        model_version: The version in MLflow's registry, where the model was registered.
        success: Whether the training went to its end.
        error: Why not, in one line.
        best_params: The parameters that a search has found.
        parent_run_id: MLflow's id of the run above this one.
        child_runs: MLflow's ids of the runs below: folds, trials.

    Example:
        >>> result = TrainingResult(run_id="0f6a", metrics={"best_val_loss": 0.25, "best_epoch": 7})
        >>> result["best_val_loss"]
        0.25
        >>> dict(result)
        {'best_val_loss': 0.25, 'best_epoch': 7}
    """

    run_id: _WhenRead = _WhenRead()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    model_version: str | None = None
    success: bool = True
    error: str | None = None
    best_params: Mapping[str, Any] = field(default_factory=dict)
    parent_run_id: str | None = None
    child_runs: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        # Another process has no way to the run that would know it.
        return {**self.__dict__, "run_id": self.run_id}

    def __repr__(self) -> str:
        run_id = self.__dict__["run_id"]  # as far as it is known: to be shown, nothing is waited for
        facts = [
            *([] if callable(run_id) else [f"run_id={run_id!r}"]),
            *([] if self.success else [f"error={self.error!r}"]),
        ]
        values = (
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in self.items()
        )
        return f"TrainingResult({', '.join([*facts, *values])})"

    def __getitem__(self, key: str) -> Any:
        try:
            return self.metrics[key]
        except KeyError:
            from difflib import get_close_matches

            near = get_close_matches(key, self.metrics, n=1)
            known = ", ".join(sorted(self.metrics)) or "none"
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {known}"
            raise KeyError(f"no metric {key!r} in the result{hint}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)
