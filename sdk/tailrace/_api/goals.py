"""What the program says of its metrics: whether more or less of one is better."""

from __future__ import annotations

from typing import Literal, cast

from tailrace._runs.run_part import RunPart
from tailrace_agent.ipc.records import Goals

__all__ = ["GoalCalls"]

_SUMMARIES = ("min", "max", "last")


class GoalCalls(RunPart):
    """`define_metric`. A base of `Run`."""

    def define_metric(self, name: str, summary: Literal["min", "max", "last"] = "min") -> None:
        """Says which value of a metric is its best: it becomes `<name>.best`, its step `<name>.best_step` at the end.

        Metrics whose names say it themselves (loss, error, accuracy, F1, AUC, …) need no such call; see the setting
        `best_metrics`.

        Args:
            name: The metric's name, or a pattern (`val/*`). Of several that fit, the last call counts.
            summary: `min`: the smallest value is the best; `max`: the largest; `last`: none is, the last one counts.

        Raises:
            CallError: Under `strict=True`: another summary, or a name that is no text.

        Example:
            >>> run.define_metric("val/perplexity_gap", summary="min")
        """
        if not isinstance(cast("object", name), str) or summary not in _SUMMARIES:
            self._core.fault(
                f"define_metric({name!r}, summary={summary!r}): the name is a text, the summary one of "
                f"{', '.join(_SUMMARIES)}; not taken",
                once=("define_metric", repr(name), repr(summary)),
            )
            return
        self._goals = {**getattr(self, "_goals", {}), name: summary}  # for those who look at it here
        self._core.put(Goals(self._core.spec.run, {name: summary}))
