"""The standard library as it was before gevent: threads are the system's, and so is what they sleep in."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from tailrace_agent.runtime.originals import original, start_thread

PATCHED = """
import gevent.monkey
gevent.monkey.patch_all()
import threading, time
from tailrace_agent.runtime.originals import original, start_thread
names = []
start_thread(lambda: names.append(original("threading", "get_ident")()), "other")
deadline = time.monotonic() + 30
while not names and time.monotonic() < deadline: original("time", "sleep")(0.01)
print(original("time", "sleep").__module__, time.sleep.__module__, names[0] != original("threading", "get_ident")())
"""


def test_without_gevent_it_is_the_library_itself() -> None:
    assert original("time", "sleep") is time.sleep


def test_under_gevent_sleep_and_threads_are_the_systems() -> None:
    pytest.importorskip("gevent")
    done = subprocess.run([sys.executable, "-c", PATCHED], capture_output=True, text=True, timeout=60, check=True)
    before, patched, another_thread = done.stdout.split()
    assert before == "time"
    assert patched.startswith("gevent")
    assert another_thread == "True"


def test_a_module_that_gevent_has_left_alone_is_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkey = SimpleNamespace(is_module_patched=lambda module: module == "os", get_original=lambda *name: name)
    monkeypatch.setitem(sys.modules, "gevent.monkey", monkey)
    assert original("time", "sleep") is time.sleep
    assert original("os", "waitpid") == ("os", "waitpid")


def test_a_thread_has_its_name_and_keeps_no_program_from_its_end() -> None:
    found: list[threading.Thread] = []
    ran = threading.Event()

    def run() -> None:
        found.append(threading.current_thread())
        ran.set()

    start_thread(run, "tailrace-test")
    assert ran.wait(30)
    assert (found[0].name, found[0].daemon) == ("tailrace-test", True)
