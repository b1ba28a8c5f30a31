"""wandb's calls over tailrace: `import tailrace.wandb as wandb`, and a script goes to MLflow.

```python
import tailrace.wandb as wandb

run = wandb.init(project="digits", config={"lr": 0.1})
for step in range(100):
    wandb.log({"train": {"loss": 1 / (step + 1)}})
wandb.finish()
```

A project is an experiment, a config params, a row the metrics of its step. What is not supported says so once and does
nothing; nothing raises. docs/migrate/wandb.md has all of it.
"""

from __future__ import annotations

import atexit
import contextvars
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailrace.wandb import errors
from tailrace.wandb._artifact import Artifact
from tailrace.wandb._config import Config, as_mapping
from tailrace.wandb._guard import VOICE, Absent, guarded, unsupported
from tailrace.wandb._media import Audio, Histogram, Html, Image, Object3D, Plotly, Table, Video
from tailrace.wandb._run import Run
from tailrace.wandb._steps import Metric, without_steps_of_their_own
from tailrace.wandb._summary import Summary
from tailrace.wandb._wanted import Wanted, note_id, wanted
from tailrace.wandb.errors import CommError, Error, UsageError

if TYPE_CHECKING:
    import tailrace

    run: Run | None
    config: Config
    summary: Summary

__all__ = [
    "AlertLevel",
    "Artifact",
    "Audio",
    "CommError",
    "Config",
    "Error",
    "Histogram",
    "Html",
    "Image",
    "Metric",
    "Object3D",
    "Plotly",
    "Run",
    "Settings",
    "Table",
    "UsageError",
    "Video",
    "__version__",
    "alert",
    "define_metric",
    "errors",
    "finish",
    "init",
    "log",
    "log_artifact",
    "login",
    "save",
    "setup",
    "teardown",
    "unwatch",
    "watch",
]

__version__: Final = "0.31.0"
"""wandb's, whose calls these are: scripts print it, and ask whether it is new enough."""
_OF_THE_RUN: Final = {"config": Config, "summary": Summary}
_PREVIOUS: Final = ("return_previous", None, False)
_NOT_MEANT: Final = ("resume_from", "fork_from", "sync_tensorboard", "tensorboard", "monitor_gym", "save_code")
_current: Run | None = None
_open: list[Run] = []
_before: Config | None = None
_hooked = False


class AlertLevel(Enum):
    """How bad an alert is."""

    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class Settings:
    """wandb's settings; what concerns a run is taken, the rest concerns wandb's own servers.

    Args:
        **settings: By name.
    """

    def __init__(self, **settings: Any) -> None:
        self.given = settings

    def __getattr__(self, name: str) -> Any:
        """None for what was not given."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__dict__.get("given", {}).get(name)


def init(
    entity: str | None = None,
    project: str | None = None,
    dir: str | os.PathLike[str] | None = None,  # noqa: A002 - wandb's own name
    id: str | None = None,  # noqa: A002 - wandb's own name
    name: str | None = None,
    notes: str | None = None,
    tags: Sequence[str] | str | None = None,
    config: Any = None,
    config_exclude_keys: Sequence[str] | None = None,
    config_include_keys: Sequence[str] | None = None,
    group: str | None = None,
    job_type: str | None = None,
    mode: str | None = None,
    reinit: bool | str | None = None,
    resume: bool | str | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    **more: Any,
) -> Run:
    """Begins a run, and makes it the current one.

    Args:
        entity: Kept as a tag.
        project: MLflow's experiment.
        dir: Where the directory `wandb` is, in which `run.dir` lies.
        id: wandb's id of the run; the tag `wandb.id`.
        name: Its name.
        notes: Its description.
        tags: Each becomes a tag.
        config: The configuration: a mapping, a namespace, a file of YAML or JSON.
        config_exclude_keys: Left out of it.
        config_include_keys: All others are left out of it.
        group: Kept as a tag.
        job_type: Kept as a tag.
        mode: `online`; `offline`: a database in `dir`, where the store would be a server; `disabled`: nothing is kept.
        reinit: What becomes of a current run: by default it is returned; True or `finish_previous` ends it, and all
            others; with `create_new` it stays the current one, and another begins beside it.
        resume: `allow`, `must`, `never`, or True or `auto`: go on with the run of this id, or of this directory.
        settings: wandb's; those that are arguments here, too, are taken.
        **more: wandb's other arguments, which say once that they mean nothing.

    Returns:
        The run. Where it cannot be begun, one that does nothing, with a warning.

    Example:
        >>> run = wandb.init(project="digits", config={"lr": 0.1})
    """
    global _current, _hooked
    previous, beside = _previous(), reinit == "create_new"
    if previous is not None and not beside:
        if reinit in _PREVIOUS:
            return previous
        for each in [*_open]:
            each.finish()
    for argument in _NOT_MEANT:
        if more.get(argument):
            unsupported(f"init({argument}=…)")
    given: dict[str, Any] = {
        "entity": entity, "project": project, "dir": dir, "id": id, "name": name, "notes": notes, "tags": tags,
        "group": group, "job_type": job_type, "mode": mode, "resume": resume,
    }  # fmt: skip
    for setting, value in _chosen(settings).items():
        key = setting.removeprefix("run_")
        if given.get(key, value) is None:
            given[key] = value
    begun = _begin(wanted(given), beside=beside and previous is not None)
    if not _hooked:
        _hooked = True
        atexit.register(_at_exit)
    _open[:] = [*(each for each in _open if not each.finished), begun]
    if previous is None or not beside:
        _current = begun
    _take_config(begun, config, config_include_keys, config_exclude_keys)
    return begun


def log(data: Mapping[str, Any], step: int | None = None, commit: bool | None = None, sync: bool | None = None) -> None:
    """Logs a row to the current run, or a part of one; see `Run.log`.

    Example:
        >>> wandb.log({"loss": 0.5})
    """
    current = _going_on()
    if current is None:
        VOICE.warn("wandb.log without a run, before wandb.init or after wandb.finish: it is not logged")
        return
    current.log(data, step, commit)


def define_metric(name: str, step_metric: str | Metric | None = None, **more: Any) -> Any:
    """Gives metrics a step of their own; see `Run.define_metric`."""
    return _of_run("define_metric")(name, step_metric, **more)


def alert(title: str, text: str = "", level: Any = None, wait_duration: Any = None) -> None:
    """Notifies people; see `Run.alert`."""
    _of_run("alert")(title, text, level, wait_duration)


def watch(models: Any, *args: Any, **more: Any) -> None:
    """Logs the norms of a module's gradients; see `Run.watch`."""
    _of_run("watch")(models, *args, **more)


def unwatch(models: Any = None) -> None:
    """Watches no more; see `Run.unwatch`."""
    _of_run("unwatch")(models)


def save(glob_str: Any = None, base_path: Any = None, policy: str = "live") -> Any:
    """Logs files; see `Run.save`."""
    return _of_run("save")(glob_str, base_path, policy)


def log_artifact(artifact_or_path: Any, *args: Any, **more: Any) -> Any:
    """Logs an artifact; see `Run.log_artifact`."""
    return _of_run("log_artifact")(artifact_or_path, *args, **more)


def finish(exit_code: int | None = None, quiet: bool | None = None) -> None:
    """Ends the current run, if there is one; see `Run.finish`."""
    global _current, _before
    if _current is not None:
        _current.finish(exit_code, quiet)
        _current = _before = None


def login(*args: Any, **more: Any) -> bool:
    """Nothing: MLflow's own variables hold who logs in."""
    return True


def setup(*args: Any, **more: Any) -> Absent:
    """Nothing: there is nothing to set up."""
    return Absent()


def teardown(exit_code: int | None = None) -> None:
    """Ends the current run."""
    finish(exit_code)


@guarded(dict, called="init")
def _chosen(settings: Settings | Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(settings.given if isinstance(settings, Settings) else settings or {})


@guarded(called="init")
def _take_config(begun: Run, config: Any, include: Sequence[str] | None, exclude: Sequence[str] | None) -> None:
    values = {**(_before.as_dict() if _before is not None else {}), **as_mapping(config)}
    kept = {
        key: value
        for key, value in values.items()
        if (include is None or key in include) and (exclude is None or key not in exclude)
    }
    if kept:
        begun.config.update(kept, allow_val_change=begun.resumed)


def _begin(what: Wanted, *, beside: bool) -> Run:
    if what.mode == "disabled":
        return Run(None, what)
    try:
        return _track(what, beside=beside)
    except Exception as error:  # noqa: BLE001 - it must not reach training
        VOICE.warn(f"wandb.init: the run is not tracked: {type(error).__name__}: {error}")
        return Run(None, what)


def _tracker() -> Any:
    """Whose runs they are: those of the module's own tracker, beside which a script may call tailrace itself."""
    import tailrace

    return tailrace


def _track(what: Wanted, *, beside: bool) -> Run:
    tracker = _tracker()
    settings = _offline(what) if what.mode == "offline" else {}
    earlier = None if what.resume in (None, "never") or not what.given_id else _earlier(what, settings)
    if earlier is None and what.resume == "must":
        VOICE.warn(
            f"wandb.init: resume='must', and there is no run with the tag wandb.id = {what.id!r}: a new one begins"
        )
    begin = tracker.start_run
    if beside:  # in a context of its own: the current run stays the active one
        begin = partial(contextvars.Context().run, tracker.start_run)
    tracked: tailrace.Run = begin(
        run_id=None if earlier is None else earlier.run_id,
        run_name=what.name,
        nested=not beside and tracker.active_run() is not None,
        tags=what.tracked_tags,
        description=what.notes,
        experiment_name=what.project,
        **settings,
    )
    if what.resume == "auto":
        note_id(what.dir, what.id)
    if earlier is None:
        return Run(tracked, what)
    return Run(tracked, what, step=earlier.step, earlier=earlier.params, summary=earlier.metrics)


def _offline(what: Wanted) -> dict[str, Any]:
    """A database on this machine, where the store would be a server."""
    if not _tracker().get_tracking_uri().startswith(("http:", "https:", "databricks")):
        return {}
    path = (what.dir / "wandb" / "offline.db").absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    VOICE.remark(
        f"wandb.init(mode='offline'): the run goes to {path}. `tailrace export --tracking-uri sqlite:///{path} …` and "
        "`tailrace import` bring it to a server"
    )
    return {"tracking_uri": f"sqlite:///{path}"}


class _Earlier(NamedTuple):
    """A run that is gone on with: MLflow's id, the step with which it does, its params, its last metrics."""

    run_id: str
    step: int
    params: dict[str, str]
    metrics: dict[str, float]


def _earlier(what: Wanted, settings: dict[str, Any]) -> _Earlier | None:
    """The run of this id; of this project, where one is named."""
    import tailrace
    from tailrace._api.readers import reader_at
    from tailrace._api.tracker_core import module_core
    from tailrace._api.tracker_part import tracker_core_of
    from tailrace_agent.runtime.places import working_directory

    if "'" in what.id:  # MLflow's filters cannot have it
        VOICE.warn(f"wandb.init: no run is found again by the id {what.id!r}: leave the quotes out")
        return None
    reading: Any = tailrace.Tracker(auto_start_run=False, **settings) if settings else _tracker()
    where: dict[str, Any] = {"search_all_experiments": True}
    try:
        # First, since a search would warn of what is not there: here a run begins.
        core = tracker_core_of(reading) if settings else module_core()
        store = reader_at(core.settings({}).tracking_uri, working_directory())
        if what.project is not None:
            where = {"experiment_ids": store.experiment_ids([what.project])}
        found = reading.search_runs(
            filter_string=f"tags.`wandb.id` = '{what.id}'",
            output_format="list",
            max_results=1,
            **where,
        )
        if not found:
            return None
        metrics = {key: value for key, value in found[0].metrics.items() if not key.startswith("system/")}
        # What has a step of its own says nothing of wandb's.
        keys = without_steps_of_their_own(metrics, found[0].tags)
        history = reading.metric_history(found[0].run_id, keys) if keys else None
        step = 0 if history is None else int(history["step"].max()) + 1
        return _Earlier(found[0].run_id, step, dict(found[0].params), metrics)
    except (tailrace.StoreRefused, tailrace.NotFound):  # there is no store yet, or no such project
        return None


def _previous() -> Run | None:
    """The current run, where this very process has begun it: a forked worker begins its own."""
    current = _going_on()
    if current is not None and current.pid != os.getpid():
        _open.clear()
        return None
    return current


def _going_on() -> Run | None:
    return _current if _current is not None and not _current.finished else None


def _of_run(call: str) -> Any:
    current = _going_on()
    if current is None:
        VOICE.warn(f"wandb.{call} without a run, before wandb.init or after wandb.finish: it does nothing")
        return Absent()
    return getattr(current, call)


def _at_exit() -> None:
    """How the run has ended tailrace knows by itself."""
    for each in _open:
        if each.pid == os.getpid():
            each.put_rest()


def __getattr__(name: str) -> Any:
    """`run`, `config` and `summary` are those of the current run; what wandb has and tailrace has not says so."""
    global _before
    if name == "run":
        return _going_on()
    if name in _OF_THE_RUN:
        if _current is not None:
            return getattr(_current, name)
        if name == "config":
            _before = _before or Config(lambda new, changed: None)  # taken along by `init`
            return _before
        return Absent()
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("sweep", "agent"):
        return unsupported(f"wandb.{name}", "`tailrace hpo` and tailrace.hpo search")
    return unsupported(f"wandb.{name}")
