"""How runs and trackers are passed to other processes: pickled, they come back joined, as the same run by its id.

Nothing secret is in a pickle: tracking URIs lose their passwords. A process of the same machine joins the session,
whose agent knows them; one elsewhere takes them from its environment, as MLflow does.
"""

from __future__ import annotations

import copyreg
import os
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace_agent.ipc import native
from tailrace_agent.settings.uris import mask_uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace._api.run import Run
    from tailrace._api.tracker import Tracker
    from tailrace.config import TrackingConfig
    from tailrace_agent.ipc.records import RunSpec

__all__ = ["pass_run", "pass_tracker"]

_URIS = ("tracking_uri", "registry_uri")
_SECRETS = ("alert_webhook",)


def pass_run(run: Run) -> tuple[Callable[..., Run], tuple[RunSpec, str]]:
    """What `pickle` is to keep of a run."""
    session = "" if run._connection is None else str(run._connection.session.dir)
    known = run._seen or run._status()
    spec = msgspec.structs.replace(
        run._spec,
        run_id=run._spec.run_id or (known.run_id if known is not None else None),
        facts=None,
        tags={},
        description=None,
    )
    return _run_again, (spec, session)


def pass_tracker(tracker: Tracker) -> tuple[Callable[..., Tracker], tuple[Any, ...]]:
    """What `pickle` is to keep of a tracker: its settings, and the run that is active for whoever passes it on."""
    import tailrace

    run = tracker.active_run()
    if tracker is tailrace._default:
        return _default_again, (run,)
    given = {key: value for key, value in tracker._given.items() if key not in _SECRETS}
    config = tracker.config
    masked = {name: _masked(given[name]) for name in _URIS if given.get(name)}
    if config is not None:
        uris = {name: _masked(uri) for name in _URIS if (uri := getattr(config, name))}
        settings = {key: value for key, value in config.settings.items() if key not in _SECRETS}
        config = msgspec.structs.replace(config, settings=settings, **uris)
    return _tracker_again, ({**given, **masked}, tracker._experiment_id, config, run)


def _pass_log(log: Any) -> tuple[Callable[[Any], Any], tuple[Any]]:
    """What `pickle` is to keep of a `log` in C: whose it is."""
    return _log_again, (log.pointer.home,)


def _log_again(home: Run | Tracker) -> Any:
    return home.log.__self__  # type: ignore[attr-defined]


if native.Log is not None:
    copyreg.pickle(native.Log, _pass_log)


def _masked(uri: str | os.PathLike[str]) -> str:
    return mask_uri(os.fspath(uri))[0]


def _run_again(spec: RunSpec, session: str) -> Run:
    import tailrace
    from tailrace._api.tracker import trackers

    for tracker in trackers():
        known = tracker._current.known(spec.run)
        if known is not None:
            return known
    return tailrace._default._current.rejoin(spec, session)


def _default_again(run: Run | None) -> Tracker:
    del run  # it has joined by itself
    import tailrace

    return tailrace._default


def _tracker_again(
    given: dict[str, Any], experiment_id: str | None, config: TrackingConfig | None, run: Run | None
) -> Tracker:
    from tailrace._api.tracker import Tracker

    tracker = Tracker(config=config, **given)
    tracker._experiment_id = experiment_id
    if run is not None:
        tracker._current.join(run)
    return tracker
