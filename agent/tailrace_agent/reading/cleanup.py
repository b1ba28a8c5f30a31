"""Runs that may go: chosen by age, status and emptiness, and never one that somebody still needs.

Kept, whatever is requested: a run that is running; one that holds a version of a registered model; one under which a
run is nested that stays; one that this machine still has something to deliver to (the caller passes those).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailrace_agent.errors import Refused, StoreRefused, TailraceError
from tailrace_agent.mlflow.pages import pages

if TYPE_CHECKING:
    from tailrace_agent.reading.reader import Reader

__all__ = ["Candidate", "choose", "delete"]

_PARENT_TAG: Final = "mlflow.parentRunId"
_ACTIVE: Final = ("RUNNING", "SCHEDULED")
_TIMEOUT: Final = 120.0


class Candidate(NamedTuple):
    """A run that fits what was requested. `kept` is the reason why it stays nevertheless, or None."""

    run: Any
    kept: str | None


def choose(
    reader: Reader,
    experiment_ids: Sequence[str] | None,
    *,
    before: int | None,
    statuses: Collection[str],
    empty: bool,
    busy: Collection[str],
) -> list[Candidate]:
    """The runs that fit every criterion.

    Args:
        reader: The store.
        experiment_ids: Where to look; everywhere when None.
        before: Ended (or begun, without an end) before this, in milliseconds.
        statuses: One of these; any that is over when empty.
        empty: Without metrics, params and artifacts.
        busy: MLflow's ids of runs that are to be kept since something is on its way to them.
    """
    fitting = [
        run
        for run in reader.search(experiment_ids)
        if run.info.status not in _ACTIVE
        and (not statuses or run.info.status in statuses)
        and (before is None or (run.info.end_time or run.info.start_time) < before)
        # Last, since it may be a request for each run.
        and (not empty or _is_empty(reader, run))
    ]
    if not fitting:
        return []
    modelled = _runs_of_models(reader)  # one search for all, only where something fits
    reasons = {
        run.info.run_id: "it holds a registered model"
        if run.info.run_id in modelled
        else "something is on its way to it: `tailrace status`"
        if run.info.run_id in busy
        else None
        for run in fitting
    }
    _keep_parents(reader, reasons)
    return [Candidate(run, reasons[run.info.run_id]) for run in fitting]


def delete(reader: Reader, run: Any, *, permanently: bool) -> None:
    """Moves a run into MLflow's bin, or deletes it and its artifacts for good.

    Raises:
        StoreRefused: A server deletes nothing for good; the message names what does.
    """
    # MLflow has no public call for it: `mlflow gc` uses this one, which stores over HTTP do not have.
    hard = getattr(reader.store, "_hard_delete_run", None)
    if permanently and hard is None:
        raise StoreRefused(
            f"{reader.name} deletes nothing for good over HTTP: without --permanently the runs go into MLflow's bin, "
            "which `mlflow gc` empties on the server"
        )
    with reader.translated_errors(about_run=True):
        # First into the bin: killed before the end, it is out of sight, and `mlflow gc` takes up the rest.
        reader.store.delete_run(run.info.run_id)
        if permanently and hard is not None:
            from tailrace_agent.mlflow.stores import open_repository

            # Before the record, which alone knows where the artifacts are.
            open_repository(run.info.artifact_uri, reader.uri, _TIMEOUT).delete_artifacts()
            hard(run.info.run_id)


def _is_empty(reader: Reader, run: Any) -> bool:
    if run.data.metrics or run.data.params:  # no request: the search has brought them
        return False
    from tailrace_agent.mlflow.stores import open_repository

    with reader.translated_errors(about_run=True):
        return not open_repository(run.info.artifact_uri, reader.uri, _TIMEOUT).list_artifacts()


def _keep_parents(reader: Reader, reasons: dict[str, str | None]) -> None:
    """A parent stays while a child does, and so does the parent's parent."""
    from mlflow.entities import ViewType

    parents = {
        run.info.run_id: run.data.tags[_PARENT_TAG]
        # All of them: a child that does not fit keeps its parent, too.
        for run in reader.search(view=ViewType.ACTIVE_ONLY)
        if _PARENT_TAG in run.data.tags
    }
    for child, above in parents.items():
        stays = child not in reasons or reasons[child] is not None
        # Tags are foreign: they may name a run above itself.
        seen: set[str] = set()
        parent: str | None = above
        while stays and parent is not None and parent not in seen:
            seen.add(parent)
            if parent in reasons and reasons[parent] is None:
                reasons[parent] = f"run {child[:8]} is nested under it, and stays"
            parent = parents.get(parent)


def _runs_of_models(reader: Reader) -> set[str]:
    """Runs that a version of a registered model was made from."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(reader.uri, reader.uri)
        return {str(version.run_id) for version in _versions(client) if version.run_id}
    except TailraceError:  # MLflow's as well
        raise
    except MlflowException as error:
        raise Refused(
            f"{reader.name} does not say which runs hold registered models ({type(error).__name__}); nothing is deleted"
        ) from None


def _versions(client: Any) -> Iterator[Any]:
    for page in pages(lambda token: client.search_model_versions("", max_results=1000, page_token=token)):
        yield from page
