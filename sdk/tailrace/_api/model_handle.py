"""The handle of a model that is being logged."""

from __future__ import annotations

from tailrace._models.progress import ModelProgress
from tailrace_agent.ipc.records import ModelOutcome
from tailrace_agent.text.cards import brief, card

__all__ = ["ModelHandle", "no_model"]


def no_model() -> ModelHandle:
    """Stands in the place of a model that could not be taken."""
    return ModelHandle("model", ModelProgress(None, "", ModelOutcome(error="it could not be logged")))


class ModelHandle:
    """A model on its way to MLflow: what `log_model` and `register_model` return.

    Nothing here raises for what the outside world does: `error` is the reason why a model has not arrived.

    Attributes:
        name: The model's name.

    Thread safety: every method from any thread.

    Example:
        >>> handle = tailrace.log_model(model, "net", registered_model_name="digits", alias="champion")
        >>> handle.wait(60)
        True
        >>> handle.model_uri, handle.version
        ('models:/m-5e0c…', '3')
    """

    def __init__(self, name: str, progress: ModelProgress) -> None:
        self.name, self._progress = name, progress

    @property
    def done(self) -> bool:
        """Whether it is over: the model is in MLflow (and registered, if requested), or `error` is set."""
        return self._progress.outcome() is not None

    @property
    def model_uri(self) -> str | None:
        """Where MLflow has it: `models:/m-…`. None before it is there."""
        outcome = self._progress.outcome()
        return outcome.uri if outcome is not None else None

    @property
    def version(self) -> str | None:
        """The version of the registered model that it has become; None before that, or if it is not registered."""
        outcome = self._progress.outcome()
        return outcome.version if outcome is not None else None

    @property
    def error(self) -> str | None:
        """Why it was not saved, not delivered or not registered; None while all is well."""
        outcome = self._progress.outcome()
        return outcome.error if outcome is not None else None

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is over.

        Args:
            timeout: Seconds; the run's `end_timeout` by default.

        Returns:
            `done`.
        """
        self._progress.wait(timeout)
        return self.done

    def __repr__(self) -> str:
        return brief("ModelHandle", self.name, *(str(fact) for _, fact in self._about() if fact))

    def _repr_html_(self) -> str:
        """What is known of it now, for a notebook."""
        return card("ModelHandle", (("name", self.name), *self._about()))

    def _about(self) -> tuple[tuple[str, str | None], ...]:
        outcome = self._progress.outcome()
        if outcome is None:
            return (("state", "on its way"),)
        version = f"version {outcome.version}" if outcome.version else None
        return ("state", outcome.error or "in MLflow"), ("model_uri", outcome.uri), ("version", version)
