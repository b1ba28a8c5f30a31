"""What is searched: the names and ranges of the parameters, as YAML has them, or a function of the trial.

A mistake is found before the first trial begins, and the message names what was probably meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from tailrace_agent.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from optuna.trial import Trial

__all__ = ["Space", "nearest", "read_space"]

Space = Callable[["Trial"], dict[str, Any]]
"""Suggests the parameters of a trial."""

_KEYS: Final = {
    "int": ("low", "high", "log", "step"),
    "float": ("low", "high", "log", "step"),
    "categorical": ("choices",),
}
_SWITCHES: Final = {"true": True, "false": False}


def nearest(word: object, known: Iterable[str]) -> str:
    """The advice of a message about a word that is not known."""
    known = list(known)
    near = get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"


def read_space(space: Mapping[str, Any] | Callable[[Trial], Mapping[str, Any]]) -> Space:
    """The function that suggests a trial's parameters.

    Args:
        space: `{"lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True}, …}`: each an `int` or a `float` with
            `low` and `high`, and with `log` or `step` if you like, or `categorical` with `choices`. Or a function of
            the trial that returns its parameters.

    Raises:
        SettingsError: Something in it is wrong.

    Example:
        >>> read_space({"layers": {"type": "int", "low": 1, "high": 4}})
    """
    if not isinstance(space, Mapping):
        if callable(space):
            return _called(space)
        raise SettingsError(f"search_space is {space!r}; allowed: a table of parameters, or a function of the trial")
    if not space:
        raise SettingsError("search_space is empty: name a parameter, `lr: {type: float, low: 1e-5, high: 0.1}`")
    parameters = [_parameter(name, given) for name, given in space.items()]
    return lambda trial: {parameter.name: parameter.suggest(trial) for parameter in parameters}


@dataclass(frozen=True)
class _Choice:
    name: str
    choices: Sequence[Any]

    def suggest(self, trial: Trial) -> Any:
        return trial.suggest_categorical(self.name, self.choices)


@dataclass(frozen=True)
class _Range:
    name: str
    whole: bool
    low: Any
    high: Any
    log: bool
    step: Any

    def suggest(self, trial: Trial) -> Any:
        if self.whole:
            step = 1 if self.step is None else self.step
            return trial.suggest_int(self.name, self.low, self.high, step=step, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)


def _called(space: Callable[[Trial], Mapping[str, Any]]) -> Space:
    def suggest(trial: Trial) -> dict[str, Any]:
        found = space(trial)
        if not isinstance(found, Mapping):
            raise SettingsError(f"search_space(trial) has returned {found!r}, and not a mapping of parameters")
        return dict(found)

    return suggest


def _parameter(name: Any, given: Any) -> _Choice | _Range:
    where = f"search_space: {name}"
    if not isinstance(name, str) or not name:
        raise SettingsError(f"{where} is no name of a parameter: write a text")
    if not isinstance(given, Mapping):
        raise SettingsError(f"{where} is {given!r}; allowed: a table with `type`, one of {', '.join(_KEYS)}")
    kind = given.get("type")
    if kind not in _KEYS:
        if "type" in given:
            raise SettingsError(f"{where}: type is {kind!r}; {nearest(kind, _KEYS)}")
        raise SettingsError(f"{where} has no `type`: one of {', '.join(_KEYS)}")
    for key in given:
        if key not in ("type", *_KEYS[kind]):
            raise SettingsError(f"{where}: {key!r} is no key of type {kind}; {nearest(key, _KEYS[kind])}")
    return _choice(where, name, given) if kind == "categorical" else _range(where, name, given, whole=kind == "int")


def _choice(where: str, name: str, given: Mapping[str, Any]) -> _Choice:
    choices = given.get("choices")
    if not isinstance(choices, (list, tuple)) or not choices:
        raise SettingsError(f"{where}: choices is {choices!r}; allowed: a list that is not empty")
    odd = [choice for choice in choices if not isinstance(choice, (type(None), bool, int, float, str))]
    if odd:
        raise SettingsError(f"{where}: choices holds {odd[0]!r}; allowed: texts, numbers, true, false, null")
    return _Choice(name, tuple(choices))


def _range(where: str, name: str, given: Mapping[str, Any], *, whole: bool) -> _Range:
    low, high = (_number(where, key, given.get(key), whole=whole) for key in ("low", "high"))
    step = None if given.get("step") is None else _number(where, "step", given["step"], whole=whole)
    log = _switch(where, given.get("log", False))
    if low > high:
        raise SettingsError(f"{where}: low {low} is above high {high}")
    if log and low <= 0:
        raise SettingsError(f"{where}: low is {low}; with `log` it has to be above 0")
    if log and step is not None and not (whole and step == 1):
        raise SettingsError(f"{where} has `log` and `step`; allowed: one of the two")
    if step is not None and step <= 0:
        raise SettingsError(f"{where}: step is {step}; allowed: a number above 0")
    return _Range(name, whole, low, high, log, step)


def _number(where: str, key: str, value: Any, *, whole: bool) -> Any:
    """A number; `1e-5`, which YAML takes for a text, is one."""
    if value is None:
        raise SettingsError(f"{where} has no `{key}`")
    try:
        number = float(value) if isinstance(value, str) or not whole else value
        if isinstance(value, bool) or number - number != 0:  # no infinity, no NaN
            raise ValueError
        if whole:
            if int(number) != number:
                raise ValueError
            return int(number)
    except (TypeError, ValueError):
        raise SettingsError(f"{where}: {key} is {value!r}; allowed: a {'whole ' if whole else ''}number") from None
    return float(number)


def _switch(where: str, value: Any) -> bool:
    switch = _SWITCHES.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(switch, bool):
        raise SettingsError(f"{where}: log is {value!r}; allowed: true, false")
    return switch
