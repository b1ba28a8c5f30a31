"""What stands in the place of C, where it was not built, is switched off, or is of another version."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tailrace_agent.ipc import native

SHOW = """
import json
from tailrace_agent.ipc import native
from tailrace_agent.ipc.ring_writer import RingWriter
print(json.dumps([native.Log is None, native.Steps is None, native.why_not, issubclass(RingWriter, native.Cursor)]))
"""


def _found(code: str = "", **environ: str) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-c", code + SHOW], env={**os.environ, **environ}, capture_output=True, text=True, check=True
    )
    found: list[object] = json.loads(done.stdout)
    return found


def test_it_is_switched_off_by_the_environment_and_says_so() -> None:
    assert _found(TAILRACE_NATIVE="0") == [True, True, "switched off by TAILRACE_NATIVE=0", True]


def test_where_it_was_not_built_python_does_all_the_work_and_the_reason_is_known() -> None:
    no_log, no_steps, why, works = _found(
        "import sys; sys.modules['tailrace_agent._native'] = None\n", TAILRACE_NATIVE="1"
    )
    assert (no_log, no_steps, works) == (True, True, True)
    assert "tailrace_agent._native" in str(why)


def test_one_that_was_built_for_another_version_is_not_used() -> None:
    other = """
import sys, types
module = types.ModuleType("tailrace_agent._native")
for name in ("Cursor", "Group", "Log", "Route", "Selector", "Slots", "Steps"):
    setattr(module, name, type(name, (), {}))
module.INTERFACE = -1
sys.modules["tailrace_agent._native"] = module
"""
    why = "it was built for another version of tailrace: install that again"
    assert _found(other, TAILRACE_NATIVE="1") == [True, True, why, True]


@pytest.mark.skipif(native.Log is None, reason="there is no C here")
def test_where_there_is_c_there_is_no_reason_against_it() -> None:
    assert native.why_not is None
    assert native.Steps is not None
