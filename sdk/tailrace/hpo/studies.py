"""The study of a search: opened or made, what was left in it, and how far it is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tailrace.hpo.search_space import nearest
from tailrace.hpo.storage import masked, need_optuna
from tailrace.hpo.trials import ATTRIBUTE
from tailrace.hpo.whereabouts import is_gone
from tailrace_agent.errors import SettingsError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage

__all__ = [
    "Counts",
    "best_of",
    "check_directions",
    "check_extent",
    "chosen",
    "count",
    "fail_the_dead",
    "numbers_of_ended",
    "open_study",
]

_DIRECTIONS: Final = ("minimize", "maximize")
_MADE_WITHIN: Final = 60.0
"""Seconds within which a trial that has begun says which process is at work on it."""


class Counts(NamedTuple):
    """How many trials a study has, by how they ended; those that wait in its queue are not among them."""

    total: int
    completed: int
    pruned: int
    failed: int
    running: int


def open_study(
    name: str,
    direction: str,
    storage: BaseStorage,
    sampler: Any,
    pruner: Any,
    *,
    resume: bool,
    described: object = None,
) -> tuple[Study, bool]:
    """The study of that name, and whether it is new.

    Raises:
        SettingsError: It is there and must not be, or optimizes in the other direction.
    """
    optuna = need_optuna()
    if direction not in _DIRECTIONS:
        raise SettingsError(f"direction is {direction!r}; {nearest(direction, _DIRECTIONS)}")
    options = {"study_name": name, "storage": storage, "sampler": sampler, "pruner": pruner}
    try:
        return optuna.create_study(direction=direction, **options), True
    except optuna.exceptions.DuplicatedStudyError:
        pass
    if not resume:
        raise SettingsError(
            f"study {name!r} is in {masked(described)} already: go on with it by resume=True, or give another name"
        )
    study: Study = optuna.load_study(**options)
    if study.direction.name.lower() != direction:
        raise SettingsError(
            f"study {name!r} in {masked(described)} is there to {study.direction.name.lower()}, not to {direction}"
        )
    return study, False


def check_directions(direction: str, prune_direction: str | None, prune_on: str | None) -> None:
    """That metrics have a direction in which they get better.

    Raises:
        SettingsError: They have none.
    """
    for name, value in (("direction", direction), ("prune_direction", prune_direction or direction)):
        if value not in _DIRECTIONS:
            raise SettingsError(f"{name} is {value!r}; {nearest(value, _DIRECTIONS)}")
    if prune_direction is not None and prune_on is None:
        raise SettingsError("prune_direction is given, and prune_on is not: name the metric that trials log")


def check_extent(n_trials: Any, timeout: Any) -> None:
    """That a search begins, and ends.

    Raises:
        SettingsError: It would not.
    """
    if n_trials is None and timeout is None:
        raise SettingsError("neither n_trials nor timeout is given: the search would never end")
    if n_trials is not None and not (hasattr(n_trials, "__index__") and n_trials >= 1):
        raise SettingsError(f"n_trials is {n_trials!r}; allowed: a whole number from 1 on")
    if timeout is not None and not timeout > 0:
        raise SettingsError(f"timeout is {timeout!r}; allowed: seconds, more than 0")


def chosen(given: Any, kind: str, seed: int | None = None) -> Any:
    """A sampler or pruner by name, with its arguments: `tpe`, `{"name": "TPESampler", "n_startup_trials": 5}`.

    Args:
        given: That, or one of Optuna's own objects, or None.
        kind: `sampler` or `pruner`.
        seed: For a sampler that is not made yet.

    Raises:
        SettingsError: There is none of that name, or it does not take these arguments.
    """
    optuna = need_optuna()
    if given is None and kind == "sampler":
        given = "TPESampler"
    if not isinstance(given, (str, Mapping)):
        return given
    arguments = {} if isinstance(given, str) else dict(given)
    name = given if isinstance(given, str) else arguments.pop("name", None)
    module = optuna.samplers if kind == "sampler" else optuna.pruners
    classes = [each for each in module.__all__ if each.endswith(kind.capitalize()) and not each.startswith("Base")]
    known = {_short(each, kind): each for each in classes}
    found = known.get(_short(str(name), kind))
    if found is None:
        raise SettingsError(f"{kind} is {name!r}; {nearest(_short(str(name), kind), known)}")
    made = getattr(module, found)
    if seed is not None and kind == "sampler":
        arguments.setdefault("seed", seed)
    try:
        return made(**arguments)
    except (TypeError, ValueError) as error:
        if "seed" in str(error) and seed is not None and isinstance(given, str):
            return made()  # draws nothing
        raise SettingsError(f"{kind} {name}: {error}") from error


def count(study: Study) -> Counts:
    """How far a study is."""
    from optuna.trial import TrialState

    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    completed, pruned, failed, running = (
        states.count(state) for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
    )
    return Counts(completed + pruned + failed + running, completed, pruned, failed, running)


def numbers_of_ended(study: Study) -> frozenset[int]:
    """The numbers of trials that are over, however they ended."""
    return frozenset(trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished())


def best_of(study: Study) -> Any:
    """The best trial, or None."""
    try:
        return study.best_trial
    except ValueError:
        return None


def fail_the_dead(study: Study) -> int:
    """Trials whose process is gone are FAIL from now on; how many those were.

    A database hears of each process that is at work (Optuna's heartbeat). For the other storages it is known of this
    machine's processes alone.
    """
    import warnings

    optuna = need_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental, and nothing to do without heartbeats
        optuna.storages.fail_stale_trials(study)
    state = optuna.trial.TrialState
    found = 0
    for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
        known = trial.user_attrs.get(ATTRIBUTE)
        process = known.get("process") if isinstance(known, dict) else None
        if is_gone(process) if process is not None else _is_nobodys(trial.datetime_start):
            study.tell(trial.number, state=state.FAIL, skip_if_finished=True)
            found += 1
    return found


def _is_nobodys(began: dt.datetime | None) -> bool:
    """Whether whoever has begun a trial was gone before it could say so."""
    now = dt.datetime.now()  # noqa: DTZ005 - as Optuna's
    return began is None or (now - began).total_seconds() > _MADE_WITHIN


def _short(name: str, kind: str) -> str:
    return name.lower().replace("_", "").removesuffix(kind)
