"""What a benchmark reports: samples as medians with their spread, and figures with a target and a verdict."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Figure", "Samples", "duration", "interleave", "judged", "shown", "timed"]


class Samples:
    """Measurements of one thing, in SI units.

    Args:
        values: One number a repetition.
    """

    def __init__(self, values: Iterable[float]) -> None:
        self.values = sorted(values)

    def quantile(self, q: float) -> float:
        """The value below which a share `q` of the samples lies."""
        return self.values[min(len(self.values) - 1, int(q * len(self.values)))]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def middle_mean(self) -> float:
        """Mean of the middle half: a mean that a preempted sample cannot move."""
        quarter = len(self.values) // 4
        return statistics.fmean(self.values[quarter : len(self.values) - quarter])

    @property
    def standard_error(self) -> float:
        """Of the middle mean, from the interquartile range (as of a normal distribution)."""
        spread = self.quantile(0.75) - self.quantile(0.25)
        # 1.349: interquartile range of a normal distribution, in standard deviations. 1.09: how much more than a mean
        # of all samples the middle mean varies.
        return float(spread / 1.349 * 1.09 / len(self.values) ** 0.5)

    def over(self, other: Samples | Sequence[float]) -> Samples:
        """Ratios to another's median."""
        below = other.median if isinstance(other, Samples) else statistics.median(other)
        return Samples(value / below for value in self.values)

    def summary(self) -> dict[str, float]:
        """For the JSON file."""
        quantiles = {f"p{round(q * 100)}": self.quantile(q) for q in (0.1, 0.5, 0.9, 0.95, 0.99)}
        return {"n": len(self.values), **quantiles, "min": self.values[0], "max": self.values[-1]}


def duration(seconds: float) -> str:
    """A duration as a person writes it."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if abs(seconds) * factor < 1000:
            return f"{seconds * factor:.3g} {unit}" if abs(seconds) * factor < 100 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds:.3g} s"


_UNITS: Mapping[str, Callable[[float], str]] = {
    "s": duration,
    "x": lambda value: f"{value:.2f} x" if value >= 0.1 else f"1/{1 / value:.0f}" if value > 0 else f"{value:.4f} x",
    "MB": lambda value: f"{value / 1e6:.1f} MB",
    "share": lambda value: f"{value:.3%}" if value < 0.1 else f"{value:.0%}",
    "per s": lambda value: f"{value:,.0f}/s",
    "n": lambda value: f"{value:,.0f}",
}


@dataclass
class Figure:
    """One row of the table.

    Attributes:
        what: Measured.
        target: As the table of targets says it; empty for a comparison.
        measured: With its spread.
        met: Whether the target is reached; None for a comparison.
        note: What a reader has to know to believe it.
        unclear: The target lies within the error, so `met` says nothing: repeat it on a quieter machine.
        data: For the JSON file.
        question: The module that asked; filled in by `run.py`.
    """

    what: str
    target: str
    measured: str
    met: bool | None
    note: str = ""
    unclear: bool = False
    data: dict[str, object] = field(default_factory=dict)
    question: str = ""


def judged(
    what: str,
    samples: Samples,
    *,
    most: float | None = None,
    least: float | None = None,
    value: float | None = None,
    error: float = 0.0,
    unit: str = "s",
    note: str = "",
) -> Figure:
    """A figure with a target.

    Args:
        what: Measured.
        samples: All measurements.
        most: Largest value that meets the target.
        least: Smallest value that does.
        value: What is judged, where it is not the median.
        error: Its standard error; a verdict needs two of them between the value and the target.
        unit: A key of `_UNITS`.
        note: For the last column.
    """
    show = _UNITS[unit]
    judge = samples.median if value is None else value
    target = f"≤ {show(most)}" if most is not None else f"≥ {show(least)}" if least is not None else ""
    met = None
    if most is not None or least is not None:
        met = (most is None or judge <= most) and (least is None or judge >= least)
    bound = judge if most is least is None else most if most is not None else least
    unclear = met is not None and bound is not None and abs(judge - bound) < 2 * error
    spread = f"  [{show(samples.quantile(0.1))} … {show(samples.quantile(0.9))}]" if len(samples.values) > 1 else ""
    data: dict[str, object] = {
        "value": judge,
        "error": error,
        "most": most,
        "least": least,
        "unit": unit,
        **samples.summary(),
    }
    return Figure(what, target, show(judge) + spread, met, note, unclear, data)


def shown(what: str, samples: Samples, *, unit: str = "s", value: float | None = None, note: str = "") -> Figure:
    """A figure without a target: what stands beside."""
    return judged(what, samples, unit=unit, value=value, note=note)


def interleave(rounds: int, arms: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Runs every arm once a round, each round in the opposite order: drift of the machine falls on all alike."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds):
        for name in list(arms)[:: 1 if turn % 2 == 0 else -1]:
            found[name].append(arms[name]())
    return found


def timed(call: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    began = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began) / 1e9
