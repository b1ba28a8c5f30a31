"""How a run shows itself: its line, its card, and nowhere more than is known."""

from __future__ import annotations

import pytest

import tailrace
from helpers.sdk_tools import eventually, tracking


def test_a_card_has_the_metrics_of_a_run_that_goes_on_and_of_one_that_has_ended(sqlite_uri: str) -> None:
    with tracking(sqlite_uri, best_metrics=True) as sdk:
        with sdk.start_run(run_name="carded", experiment_name="cards") as run:
            sdk.define_metric("gap", summary="max")
            for step in range(10):
                sdk.log(step=step, loss=1 / (step + 1), gap=float(step))
            assert eventually(lambda: run._repr_html_().count("<svg") == 2)
            card = run._repr_html_()
            assert "RUNNING" in card
            assert "experiment cards" in card
            assert card.count(">best<") == 2
        card = run._repr_html_()
        assert "FINISHED" in card
        assert card.count(">best<") == 2
        assert "24 points delivered" in card  # with the best ones and their steps


def test_without_a_notebook_a_run_is_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with tailrace.Tracker(agent="off", backend="none") as tracker:
        run = tracker.active_run()
        assert run is not None
        with pytest.raises(NotImplementedError):
            run._ipython_display_()
        assert "tracking is off" in run._repr_html_()
        assert repr(run).startswith("<tailrace.Run")
