"""What a call can be wrong about, in words: short, and the same words for the same fault, so that it is said once."""

from __future__ import annotations

from typing import Any, NamedTuple

from tailrace._values.numbers import name_of, to_number

__all__ = ["REFUSED", "Fault", "as_step", "bad_value", "not_named", "shown", "topic"]

REFUSED = "MLflow refused "
_NOT_LOGGED = " was not logged"


class Fault(NamedTuple):
    """Something that cannot be logged: what to say, why (for the ledger), and how many."""

    text: str
    reason: str
    n: int


def not_named(metrics: object, step: object) -> Fault:
    """Metrics that are no mapping; a name and its value one after the other, as other trackers take them, is known."""
    if isinstance(metrics, str):
        value = "…" if step is None else shown(step)
        text = (
            f"metric {metrics!r}{_NOT_LOGGED}: log() takes names with their values. Write "
            f"log({{{metrics!r}: {value}}}, step=…), or log_metric({metrics!r}, {value}, step=…)"
        )
        return Fault(text, "metrics are no mapping", 1)
    return Fault(f"log() takes a mapping or keywords, not {name_of(metrics)}", "metrics are no mapping", 1)


def bad_value(entry: tuple[str, str]) -> Fault:
    """A metric whose value is no number: `(key, reason)`."""
    key, reason = entry
    return Fault(f"metric {key!r}{_NOT_LOGGED}: {reason}", "value is no number", 1)


def topic(text: str) -> str:
    """What a warning is given once for: one metric that was not logged, one entry that was refused, or the text."""
    if text.startswith(REFUSED):
        return text.partition(": ")[0]
    return text.partition(_NOT_LOGGED)[0]


def shown(value: object) -> str:
    """A value for a message, short; one on a device is not asked for."""
    return repr(value)[:100] if isinstance(value, (str, int, float, bytes, type(None))) else f"of {name_of(value)}"


def as_step(step: Any) -> int:
    """A step that the encoder did not take: a NumPy integer, a one-element tensor on the CPU, 7.0."""
    number = step if isinstance(step, int) else to_number(step)
    if number != int(number) or not -(2**63) < number < 2**63:
        raise ValueError("no step")
    return int(number)
