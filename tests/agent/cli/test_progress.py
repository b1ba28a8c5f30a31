"""How far a delivery is: a bar on a terminal, lines elsewhere, nothing beside JSON."""

from __future__ import annotations

import pytest

from tailrace_agent.cli import _progress
from tailrace_agent.cli._deliver import Tick
from tailrace_agent.cli._progress import Progress


def test_nothing_is_shown_where_json_is_wanted(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=True) as progress:
        progress.begin("ab12cd")
        progress.tick(Tick(1, 2, problem="away"))
        progress.print_line("done")
    assert capfd.readouterr() == ("", "")


def test_in_a_pipe_a_line_comes_from_time_to_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now)
    with Progress() as progress:
        progress.begin("ab12cd train.py")
        progress.tick(Tick(1, 2000))
        assert capsys.readouterr().err == "", "what is quick needs no line"
        now += 6
        progress.tick(Tick(1, 2000, note="opening the store"))
        progress.tick(Tick(2, 2000))
        now += 6
        progress.tick(Tick(1000, 2000, problem="the server is away", note="opening the store"))
    assert capsys.readouterr().err.splitlines() == [
        "ab12cd train.py: 1 of 2,000 entries  opening the store",
        "ab12cd train.py: 1,000 of 2,000 entries  waiting: the server is away",
    ]


def test_a_line_that_stays_is_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.print_line("word " * 60, indent=2)
    assert capsys.readouterr().err.rstrip() == f"  {'word ' * 60}".rstrip()
