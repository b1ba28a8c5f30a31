"""Alert rules: one line of text, understood or refused with the reason. Pure; knows nothing of runs.

```
rule      = metric "is" ("NaN" | "not finite")
          | metric ("<" | "<=" | ">" | ">=" | "==" | "!=") number ["for" duration]
          | "no progress for" duration
          | "rank slower than" number "times the fastest" ["for" duration]
metric    = a name, in quotes where it holds one of the words or signs above; `*` stands for anything
duration  = a number with ms, s, min or h
```

The last form looks at the batch times of a job's ranks on one node (`runtime.job.BATCH_TIME`, as statistics).

A metric's name may leave out what stands before a `/`: `loss` means `loss`, `train/loss` and `val/loss`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from fnmatch import translate
from typing import Final, NamedTuple

from tailrace_agent.errors import SettingsError
from tailrace_agent.settings.units import parse_duration

__all__ = ["Rule", "parse_rule"]

_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_METRIC: Final = r"(?:\"(?P<quoted>[^\"]+)\"|(?P<metric>[^<>=!\"]*[^<>=!\"\s]))"
_STATE = re.compile(rf"{_METRIC}\s+is\s+(?P<state>\S.*)", re.IGNORECASE)
_LIMIT = re.compile(
    rf"{_METRIC}\s*(?P<sign><=|>=|==|!=|<|>)\s*(?P<number>\S+)(?:\s+for\s+(?P<time>\S.*))?", re.IGNORECASE
)
_SILENCE = re.compile(r"no\s+progress\s+for\s+(?P<time>\S.*)", re.IGNORECASE)
_SLOW = re.compile(
    r"rank\s+slower\s+than\s+(?P<number>\S+?)\s*(?:x|times)(?:\s+the\s+fastest)?(?:\s+for\s+(?P<time>\S.*))?",
    re.IGNORECASE,
)
_FORMS: Final = (
    "write `loss is NaN`, `loss is not finite`, `gpu_0_temperature_celsius > 85 for 5 min`, `no progress for 10 min` "
    "or `rank slower than 1.5 times the fastest for 5 min`"
)


class Rule(NamedTuple):
    """A rule, understood.

    Attributes:
        text: As it was written.
        matches: Whether a metric of this name is meant; None for a rule about progress, or about ranks.
        holds: Whether a value fulfils the condition; of a rule about ranks, how many times as slow as the fastest.
        seconds: For how long it has to; for a rule about progress, how long the silence lasts.
        ranks: Whether it is about ranks that are slow.
    """

    text: str
    matches: Callable[[str], bool] | None
    holds: Callable[[float], bool]
    seconds: float
    ranks: bool = False


def parse_rule(text: str) -> Rule:
    """Understands a rule.

    Raises:
        SettingsError: It is none; the message names it and the reason.

    Example:
        >>> rule = parse_rule("gpu_*_temperature_celsius > 85 for 5 min")
        >>> rule.matches("system/gpu_0_temperature_celsius"), rule.holds(90.0), rule.seconds
        (True, True, 300.0)
    """
    rule = text.strip()
    if match := _SILENCE.fullmatch(rule):
        return Rule(rule, None, _never, _duration(rule, match["time"]))
    if match := _SLOW.fullmatch(rule):
        times = _number(rule, match["number"])
        if times < 1:
            raise _bad(rule, "no rank is faster than the fastest: write a number above 1")
        lasts = _duration(rule, match["time"]) if match["time"] else 0.0
        return Rule(rule, None, lambda value: value > times, lasts, ranks=True)
    # Before the comparison: `loss is < 3` is to be refused for its `is`.
    if match := _STATE.fullmatch(rule):
        state = " ".join(match["state"].lower().split())
        holds = _STATES.get(state)
        if holds is None:
            raise _bad(rule, f"a metric can be `NaN` or `not finite`, not {match['state']!r}")
        return Rule(rule, _named(match), holds, 0.0)
    if match := _LIMIT.fullmatch(rule):
        compare, limit = _COMPARE[match["sign"]], _number(rule, match["number"])
        seconds = _duration(rule, match["time"]) if match["time"] else 0.0
        return Rule(rule, _named(match), lambda value: compare(value, limit), seconds)
    raise _bad(rule, _FORMS)


def _never(_: float) -> bool:
    return False


def _not_finite(value: float) -> bool:
    return not math.isfinite(value)


_STATES: Final[dict[str, Callable[[float], bool]]] = {"nan": math.isnan, "not finite": _not_finite}


def _named(match: re.Match[str]) -> Callable[[str], bool]:
    pattern = translate(match["quoted"] or match["metric"].strip())
    # `loss` also means `train/loss`.
    return re.compile(rf"(?:.*/)?{pattern}", re.DOTALL).match  # type: ignore[return-value]


def _number(rule: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise _bad(rule, f"{text!r} is no number") from None
    if math.isnan(number):
        raise _bad(rule, "nothing compares with NaN: write `is NaN`")
    return number


def _duration(rule: str, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise _bad(rule, f"{text!r} is no time: write `30 s`, `10 min` or `2 h`")
    return seconds


def _bad(rule: str, reason: str) -> SettingsError:
    return SettingsError(f"the alert rule {rule!r} cannot be understood: {reason}")
