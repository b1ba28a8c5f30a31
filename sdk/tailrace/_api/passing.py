"""How runs and trackers are passed to other processes: pickled, they come back joined, as the same run by its id.

Nothing secret is in a pickle: tracking URIs lose their passwords. A process of the same machine joins the session,
whose agent knows them; one elsewhere takes them from its environment, as MLflow does.
"""

from __future__ import annotations

import copyreg
import os
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace._api.tracker_core import module_core, tracker_cores
from tailrace._runs.run_part import core_of
from tailrace_agent.ipc import native
from tailrace_agent.settings.uris import mask_uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace._api.tracker_core import TrackerCore
    from tailrace._config.tracking import TrackingConfig
    from tailrace._runs.core import RunCore
    from tailrace_agent.ipc.records import RunSpec

__all__ = ["pass_run", "pass_tracker"]

_URIS = ("tracking_uri", "registry_uri")
_SECRETS = ("alert_urls", "alert_webhook")


def pass_run(run: RunCore) -> tuple[Callable[..., Any], tuple[RunSpec, str]]:
    """What `pickle` is to keep of a run."""
    session = "" if run.connection is None else str(run.connection.session.dir)
    # For a process on another machine, which finds no session and goes by MLflow's id.
    known = run.seen or run.status()
    spec = msgspec.structs.replace(
        run.spec,
        run_id=run.spec.run_id or (known.run_id if known is not None else None),
        # The process that began the run has sent these.
        facts=None,
        tags={},
        description=None,
    )
    return _run_again, (spec, session)


def pass_tracker(tracker: TrackerCore, made: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What `pickle` is to keep of a tracker: its settings, and the run that is active for whoever passes it on.

    `made` is what it is to be made with there: its class.
    """
    run = tracker.runs.home.active_run()  # the call that has the guard around it
    if tracker.of_module:
        # A program has one: its settings are those of the process that unpickles it.
        return _module_again, (run,)
    given = {key: value for key, value in tracker.given.items() if key not in _SECRETS}
    config = tracker.config
    masked = {name: _masked(given[name]) for name in _URIS if given.get(name)}
    if config is not None:
        uris = {name: _masked(uri) for name in _URIS if (uri := getattr(config, name))}
        settings = {key: value for key, value in config.settings.items() if key not in _SECRETS}
        config = msgspec.structs.replace(config, settings=settings, **uris)
    return _tracker_again, (made, {**given, **masked}, tracker.experiment_id, config, run)


def _pass_log(log: Any) -> tuple[Callable[[Any], Any], tuple[Any]]:
    """What `pickle` is to keep of a `log` in C: whose it is."""
    return _log_again, (log.pointer.home,)


def _log_again(home: Any) -> Any:
    return home.log.__self__


if native.Log is not None:
    # A `log` may be bound in what is passed to a worker (`functools.partial(train, log=run.log)`).
    copyreg.pickle(native.Log, _pass_log)


def _masked(uri: str | os.PathLike[str]) -> str:
    return mask_uri(os.fspath(uri))[0]


def _run_again(spec: RunSpec, session: str) -> Any:
    # In a forked child, or in the very process that pickled it, the run is there already.
    known = next((found for core in tracker_cores() if (found := core.runs.known(spec.run)) is not None), None)
    return (known or module_core().runs.rejoin(spec, session)).handle


def _module_again(run: Any) -> Any:
    del run  # it has joined by itself
    return module_core().runs.home


def _tracker_again(
    made: Callable[..., Any], given: dict[str, Any], experiment_id: str | None, config: TrackingConfig | None, run: Any
) -> Any:
    tracker = made(config=config, **given)
    core = next(core for core in tracker_cores() if core.runs.home is tracker)
    core.experiment_id = experiment_id
    if run is not None:
        core.runs.join(core_of(run))
    return tracker
