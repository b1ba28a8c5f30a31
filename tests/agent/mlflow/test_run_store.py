"""What a run that was found tells whoever goes on in it."""

from __future__ import annotations

import math

from tailrace_agent.mlflow.run_store import Run


def run(values: dict[str, float], steps: dict[str, int] | None = None) -> Run:
    return Run("a", "0", "n", "RUNNING", "active", None, "", {}, {}, steps or {}, values)


def test_steps_go_on_behind_the_last_one_of_each_group() -> None:
    steps = {"system/cpu": 3, "system/memory": 5, "loss": 9}
    assert run({}, steps).next_steps == {"system": 6}
    assert run({}, {"loss": 9}).next_steps is None


def test_a_best_value_has_a_step_where_one_was_written_with_it() -> None:
    found = run({"loss": 0.5, "loss.best": 0.25, "loss.best_step": 7.0, "acc.best": 0.5, "acc.best_step": math.nan})
    assert found.bests == {"loss": 0.25, "acc": 0.5}
    assert found.best_steps == {"loss": 7.0}
