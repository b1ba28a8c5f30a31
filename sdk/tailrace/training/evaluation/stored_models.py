"""Models by their URI: loaded as what they were, with the run that they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tailrace.protocol import LoadsModels
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from tailrace.protocol import TrackerLike

__all__ = ["is_model_uri", "load"]

_SCHEMES: Final = ("models:/", "runs:/")


def is_model_uri(model: Any) -> bool:
    """Whether it names a model in MLflow."""
    return isinstance(model, str) and model.startswith(_SCHEMES)


def load(uri: str, tracker: TrackerLike) -> tuple[Any, str | None]:
    """The model, and MLflow's id of its run, where that is known.

    What has no `predict` of its own (a PyTorch module) comes back as MLflow's, which has.

    Raises:
        CallError: The tracker has no models.
        NotFound: There is no such model.
        TailraceError: MLflow cannot be reached, or refuses.
    """
    if not isinstance(tracker, LoadsModels):
        raise CallError(f"{uri}: {type(tracker).__name__} has no load_model(): pass the model itself")
    wrapped = tracker.load_model(uri, pyfunc=True)
    raw = wrapped.get_raw_model() if hasattr(wrapped, "get_raw_model") else wrapped
    metadata = getattr(wrapped, "metadata", None)
    return (raw if callable(getattr(raw, "predict", None)) else wrapped), getattr(metadata, "run_id", None)
