"""The end of the program: the runs of all its trackers end within one time, and nothing of them is given up before."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.sdk_tools import named, script

UNENDED = """
import time
import tailrace

class Slow(str):
    def encode(self, *how):
        time.sleep(0.2)
        return super().encode(*how)

hasty = tailrace.Tracker(exit_timeout=0)
patient = tailrace.Tracker()
for name, tracker in (("hasty", hasty), ("patient", patient)):
    tracker.start_run(run_name=name)
    for number in range(3):
        tracker.log_text(Slow(name), f"{number}.txt")
"""


@pytest.mark.slow
def test_what_one_trackers_runs_have_in_the_background_is_given_up_for_no_other_tracker(
    tmp_path: Path, sqlite_uri: str
) -> None:
    """The module's own tracker has begun nothing and waits for nothing, and comes first; another one is in a hurry."""
    done = script(tmp_path, UNENDED, TAILRACE_TRACKING_URI=sqlite_uri, TAILRACE_AGENT="thread")
    assert "dropped" not in done.stderr
    for name in ("hasty", "patient"):
        store = named(sqlite_uri, name)
        assert (store.status, store.artifacts()) == ("FINISHED", ["0.txt", "1.txt", "2.txt"]), done.stderr
