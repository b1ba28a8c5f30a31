"""What a process knows of its own end."""

from __future__ import annotations

import sys
import time

import pytest

from helpers.sdk_tools import Store, tracking


class ModelDiverged(Exception):
    pass


def test_an_uncaught_exception_elsewhere_says_nothing_about_a_run_that_goes_on(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the exit of a program a failed run is told apart from a finished one by `sys.last_value`."""
    for error, status in ((None, "FINISHED"), (ModelDiverged("boom"), "FAILED")):
        with tracking(sqlite_uri) as sdk:
            monkeypatch.setattr(sys, "last_value", error, raising=False)
            monkeypatch.setattr(sys, "last_exc", error, raising=False)
            run = sdk.start_run()
            sdk.log(x=time.time())
        assert Store(sqlite_uri, run).status == status
