"""What becomes of a row: numbers are metrics of its step, texts tags, and all else artifacts.

A value that cannot be logged takes no other of its row along. Of a row that is not complete the numbers are kept as
they are now, and all else is logged at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tailrace.wandb._guard import VOICE, Absent
from tailrace.wandb._media import media_of, path_of
from tailrace.wandb._steps import Row, Steps
from tailrace.wandb._summary import Summary
from tailrace.wandb._values import as_it_is

if TYPE_CHECKING:
    import tailrace

__all__ = ["Rows", "flat"]

_PLAIN: Final = frozenset((float, int, bool))


class Rows:
    """The rows of one run.

    Args:
        tracked: tailrace's run; None where nothing is kept.
        steps: Whose.
        summary: Likewise.

    Thread safety: any thread.
    """

    def __init__(self, tracked: tailrace.Run | None, steps: Steps, summary: Summary) -> None:
        self._tracked, self._steps, self._summary = tracked, steps, summary

    def take(self, values: dict[str, Any], step: Any, commit: bool | None) -> None:
        """One call of `log`, as `Steps.take` takes it."""
        others: dict[str, Any] = {}
        if commit is False and (step is None or int(step) >= self._steps.step):
            values, others = _kept(values)
        for row in self._steps.take(values, step, commit):
            self.put(row)
        for key, value in others.items():
            self._put_other(key, value, self._steps.step, {})

    def finish(self) -> None:
        """What was not committed, and what `define_metric` wanted to know."""
        for row in self._steps.rest():
            self.put(row)
        extremes = self._summary.extremes()
        if extremes and self._tracked is not None:
            self._tracked.log(extremes, step=self._steps.step)

    def put(self, row: Row) -> None:
        """Logs a row."""
        for step, values in self._steps.placed(row).items():
            numbers = {key: value for key, value in values.items() if value.__class__ in _PLAIN}
            if len(numbers) < len(values):
                for key, value in values.items():
                    if key not in numbers:
                        self._put_other(key, value, step, numbers)
            self._summary.note(numbers, self._steps.defined)
            if numbers and self._tracked is not None:
                self._tracked.log(numbers, step=step)

    def _put_other(self, key: str, value: Any, step: int, numbers: dict[str, Any]) -> None:
        """Logs what is no plain number; what tailrace itself can make a number of is added to `numbers`."""
        try:
            if value is None or isinstance(value, Absent):
                return
            if isinstance(value, str):
                self._summary.note({key: value}, self._steps.defined)
                if self._tracked is not None:
                    self._tracked.set_tag(key, value)
            elif isinstance(value, (list, tuple)):
                self._put_list(key, value, step)
            elif (media := media_of(value)) is None:
                numbers[key] = value
            elif self._tracked is not None:
                media.put(self._tracked, key, step)
        except Exception as error:  # noqa: BLE001 - the others of its row are logged all the same
            VOICE.warn_undone(f"wandb.log of {key!r}", error)

    def _put_list(self, key: str, values: Sequence[Any], step: int) -> None:
        if self._tracked is None:
            return
        found = [media_of(each) for each in values]
        for index, media in enumerate(found):
            if media is not None:
                media.put(self._tracked, f"{key}/{index}", step)
        if not any(found):
            self._tracked.log_dict(list(values), f"media/lists/{path_of(key)}_{step}.json")


def _kept(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a row that is not complete: the numbers, as they are now, and all else, which is logged at once."""
    numbers = {key: value for key, value in values.items() if value.__class__ in _PLAIN}
    others: dict[str, Any] = {}
    for key, value in values.items():
        if key not in numbers:
            is_other = value is None or isinstance(value, (str, list, tuple, Absent)) or media_of(value) is not None
            (others if is_other else numbers)[key] = value if is_other else as_it_is(value)
    return numbers, others


def flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values under `a.b`, as wandb names them."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found.update({f"{key}.{below}": each for below, each in flat(value).items()})
        else:
            found[str(key)] = value
    return found
