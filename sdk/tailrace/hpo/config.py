"""A search as a file has it: the table `hpo`, and where it is tracked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tailrace.hpo.objectives import check_function, load_function
from tailrace.hpo.search_space import nearest, read_space
from tailrace.hpo.studies import check_directions, check_extent
from tailrace_agent.decoding import convert
from tailrace_agent.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace.config import TrackingConfig
    from tailrace.hpo.search_space import Space

__all__ = ["SearchConfig", "read_search"]


_TABLES: Final = ("hpo", "mlflow", "tracking")


class SearchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The table `hpo` of a configuration.

    Attributes:
        study_name: The study's name, and that of its run.
        objective: `module:function` or `train.py:function`, called with the trial and its parameters.
        search_space: Parameters with their ranges, or a function of the trial, named likewise.
        metric: What the objective returns.
        direction: `maximize` or `minimize`.
        n_trials: Trials in all; None: as many as the time allows.
        timeout: Seconds after which no trial begins.
        storage: Where the study is kept; by default a file named for the study, here.
        sampler, pruner: By name, or with arguments.
        prune_on, prune_direction: See `OptunaRunner`.
        seed: Of the sampler.
    """

    study_name: str
    objective: str
    search_space: dict[str, Any] | str
    metric: str = "value"
    direction: str = "maximize"
    n_trials: int | None = None
    timeout: float | None = None
    storage: str | None = None
    sampler: str | dict[str, Any] | None = None
    pruner: str | dict[str, Any] | None = None
    prune_on: str | None = None
    prune_direction: str | None = None
    seed: int | None = None

    @property
    def kept_in(self) -> str:
        """Where the study is, variables of the environment put in (`${OPTUNA_STORAGE}`)."""
        if self.storage:
            return _with_variables(self.storage)
        return f"{self.study_name.replace('/', '-')}.journal"

    def runner_options(self, worker: int = 0) -> dict[str, Any]:
        """For an `OptunaRunner`; each worker draws other numbers."""
        return {
            "study_name": self.study_name,
            "direction": self.direction,
            "metric": self.metric,
            "storage": self.kept_in,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "prune_on": self.prune_on,
            "prune_direction": self.prune_direction,
            "seed": None if self.seed is None else self.seed + worker,
        }

    def space(self, folder: Path) -> Space:
        """What suggests the parameters of a trial."""
        named = self.search_space
        return read_space(load_function(named, folder, "hpo.search_space") if isinstance(named, str) else named)


def read_search(
    config: str | os.PathLike[str], overrides: Mapping[str, Any]
) -> tuple[SearchConfig, TrackingConfig, Path]:
    """Reads and checks it: the search, its tracking, and the directory of the file.

    Args:
        config: The file.
        overrides: Values by their dotted names; keys of `hpo` without it.

    Raises:
        SettingsError: Something in it is wrong.
    """
    from tailrace.config import load_config

    fields = SearchConfig.__struct_fields__
    tracking = load_config(config, overrides={_full(key): value for key, value in overrides.items()})
    where = f"{tracking.source}: hpo"
    table = tracking.experiment.get("hpo")
    if not isinstance(table, dict):
        raise SettingsError(f"{where} is missing: a table with {', '.join(fields[:3])}")
    for key in table:
        if key not in fields:
            raise SettingsError(f"{where}.{key} is no key of a search; {nearest(key, fields)}")
    for key in fields[:3]:
        if key not in table:
            raise SettingsError(f"{where}.{key} is missing")
    try:
        search = convert(table, SearchConfig)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {str(error).replace('$.', '').replace('`$`', '`hpo`')}") from None
    folder = Path(config).absolute().parent
    try:
        _check(search, folder)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None
    return search, tracking, folder


def _full(key: str) -> str:
    """The dotted name of a value in the document; keys of `hpo` are known without it."""
    fields = SearchConfig.__struct_fields__
    if key.partition(".")[0] in fields:
        return f"hpo.{key}"
    if "." not in key:
        raise SettingsError(f"{key} is no key of a search; {nearest(key, fields)}")
    if (top := key.partition(".")[0]) not in _TABLES:  # a file may have others, for somebody else
        raise SettingsError(f"{key}: {top} is no table of a search; {nearest(top, (*_TABLES, *fields))}")
    return key


def _check(search: SearchConfig, folder: Path) -> None:
    check_extent(search.n_trials, search.timeout)
    check_directions(search.direction, search.prune_direction, search.prune_on)
    _ = search.kept_in
    check_function(search.objective, folder, "objective")
    if isinstance(search.search_space, str):
        check_function(search.search_space, folder, "search_space")
    else:
        read_space(search.search_space)


def _with_variables(storage: str) -> str:
    """Passwords need not stand in files."""
    whole = os.path.expandvars(storage)
    if "${" in whole:
        raise SettingsError(f"storage {storage!r} names a variable that the environment does not have")
    return whole
