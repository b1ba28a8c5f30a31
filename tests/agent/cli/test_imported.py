"""What an import says."""

from __future__ import annotations

import pytest

from tailrace_agent.cli._imported import conclude, print_imported
from tailrace_agent.reading.import_ import Imported


def brought(outcome: str, points: int = 3) -> Imported:
    return Imported(
        source_run_id="0123456789",
        run_id="abc",
        run_name="",
        experiment="e",
        outcome=outcome,
        points=points,
        artifacts=1,
    )


def test_each_run_and_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [brought("imported"), brought("continued", 1), brought("there")]
    print_imported(runs[0], {"histograms": 2})
    print_imported(runs[1])
    print_imported(runs[2])
    conclude(runs, "the store", json_=False)
    assert capsys.readouterr().out.splitlines() == [
        "01234567 → abc (e): 3 points, 1 artifact",
        "  MLflow has no place for 2 histograms: left out",
        "01234567 → abc (e): 1 more point, 1 artifact",
        "01234567 → abc (e): is there already",
        "1 run imported into the store, 1 continued, 1 there before",
    ]
