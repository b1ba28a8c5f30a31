"""What a call can be wrong about, in words: short, and the same for the same fault, so that it is reported once."""

from __future__ import annotations

from typing import Any, NamedTuple

from tailrace._values.numbers import name_of, to_number
from tailrace_agent.ipc.notices import not_logged
from tailrace_agent.ipc.reasons import Reason

__all__ = ["Fault", "as_step", "bad_value", "not_named", "shown"]


class Fault(NamedTuple):
    """Something that cannot be logged: the message, why (for the ledger), how many, and the topic.

    It is reported once for its topic, `about`; None where that is the text itself.
    """

    text: str
    reason: Reason
    n: int
    about: str | None = None


def not_named(metrics: object, step: object) -> Fault:
    """Metrics that are no mapping; a name and its value one after the other, as other trackers take them, is known."""
    if isinstance(metrics, str):
        value = "…" if step is None else shown(step)
        text = (
            f"metric {metrics!r} was not logged: log() takes names with their values. Write "
            f"log({{{metrics!r}: {value}}}, step=…), or log_metric({metrics!r}, {value}, step=…)"
        )
        return Fault(text, "metrics are no mapping", 1, not_logged("metric", metrics))
    return Fault(f"log() takes a mapping or keywords, not {name_of(metrics)}", "metrics are no mapping", 1)


def bad_value(entry: tuple[str, str]) -> Fault:
    """A metric whose value is no number: `(key, reason)`."""
    key, reason = entry
    return Fault(f"metric {key!r} was not logged: {reason}", "value is no number", 1, not_logged("metric", key))


def shown(value: object) -> str:
    """A value for a message, short; one on a device is not read."""
    return repr(value)[:100] if isinstance(value, (str, int, float, bytes, type(None))) else f"of {name_of(value)}"


def as_step(step: Any) -> int:
    """A step that the encoder did not take: a NumPy integer, a one-element tensor on the CPU, 7.0."""
    number = step if isinstance(step, int) else to_number(step)
    # MLflow's column is 64 bits wide. NaN and the infinities leave by what `int()` raises.
    if number != int(number) or not -(2**63) < number < 2**63:
        raise ValueError("no step")
    return int(number)
