"""What a process knows of its own end."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from helpers.sdk_tools import Store, script, tracking


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


def test_a_program_that_ctrl_c_ends_ends_by_the_signal_whatever_is_imported_at_its_end(tmp_path: Path) -> None:
    """A shell goes by it: after an exit code of 1 its loop over programs goes on."""
    done = script(
        tmp_path,
        """
        import tailrace
        from tailrace._background.process_end import at_end
        at_end(lambda: exec("pass"))
        raise KeyboardInterrupt
        """,
        check=False,
    )
    assert done.returncode == -signal.SIGINT


def test_one_that_has_gone_on_after_a_ctrl_c_in_a_console_of_its_own_ends_as_ever(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        import sys
        import tailrace
        def console():
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                sys.last_value = sys.last_exc = error
        console()
        """,
        check=False,
    )
    assert done.returncode == 0
