"""The live view in a real terminal, tmux, with real runs: what a person sees of them, and when."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.missing import missing

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]

_TRAIN = """
import sys, time, math
import tailrace as sdk
with sdk.start_run(run_name=sys.argv[1], log_system_metrics=True, quiet=True) as run:
    print("ready", flush=True)
    for line in sys.stdin:
        value = float(line)
        sdk.log({"train/loss": value, "val/acc": 1 - value})
        print(time.time(), flush=True)
"""
_TOP = "import sys; from tailrace_agent.cli import main; sys.argv[0] = 'tailrace'; main()"


class _Terminal:
    """A tmux session with the live view in it."""

    def __init__(self, socket: Path, width: int, height: int, *arguments: str, **environment: str) -> None:
        self._tmux = ("tmux", "-S", str(socket), "-f", "/dev/null")
        names = [name for name in os.environ if name.startswith(("TAILRACE_", "MLFLOW_", "PYTHON"))]
        shown = [f"{name}={os.environ[name]}" for name in names] + [
            f"{key}={value}" for key, value in environment.items()
        ]
        command = ["env", *shown, sys.executable, "-c", _TOP, "top", *arguments]
        self._run("new-session", "-d", "-x", str(width), "-y", str(height), *command)

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, timeout=20, check=False).stdout

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def screen(self, *, colours: bool = False) -> str:
        return self._run("capture-pane", "-p", *(["-e"] if colours else []))

    def until(self, seen: Callable[[str], object]) -> str:
        deadline = time.monotonic() + 60
        while not seen(screen := self.screen()):
            assert time.monotonic() < deadline, screen
            time.sleep(0.05)
        return screen

    @property
    def over(self) -> bool:
        return self._run("list-sessions") == ""

    def close(self) -> None:
        self._run("kill-server")


class _Program:
    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TRAIN, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        assert self._out.readline() == "ready\n"

    def log(self, value: float) -> float:
        """When `log()` had returned."""
        self._in.write(f"{value}\n")
        self._in.flush()
        return float(self._out.readline())

    def close(self) -> None:
        self._in.close()
        self._process.wait(60)
        self._out.close()


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, sqlite_uri: str) -> Iterator[Callable[[str], _Program]]:
    if shutil.which("tmux") is None:
        missing("tmux is not installed: the live view is not looked at in a terminal")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    programs: list[_Program] = []

    def start(name: str) -> _Program:
        programs.append(_Program(name))
        return programs[-1]

    yield start
    for each in programs:
        each.close()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., _Terminal]]:
    terminals: list[_Terminal] = []

    def begin(width: int, height: int, *arguments: str, **environment: str) -> _Terminal:
        terminals.append(_Terminal(tmp_path / f"tmux{len(terminals)}", width, height, *arguments, **environment))
        return terminals[-1]

    yield begin
    for each in terminals:
        each.close()


def test_a_value_that_is_logged_comes_onto_the_screen(
    program: Callable[[str], _Program], terminal: Callable[..., _Terminal]
) -> None:
    one = program("alpha")
    for n in range(20):
        one.log(1 / (n + 1))
    view = terminal(80, 24)
    screen = view.until(lambda text: "train/loss" in text and "val/acc" in text)
    assert "alpha" in screen
    assert "RUNNING" in screen
    took = []
    for n in range(10):
        at = one.log(0.1234 + n)
        view.until(lambda text, n=n: f"{0.1234 + n:.4g}" in text)
        took.append(time.time() - at)
        time.sleep(0.037 * n)
    print(f"a value was on the screen {sorted(took)[5]:.2f} s after log(), {max(took):.2f} s at most")
    view.press("q")
    view.until(lambda _: view.over)


def test_keys_filter_zoom_overlay_and_help_work_in_a_terminal(
    program: Callable[[str], _Program], terminal: Callable[..., _Terminal]
) -> None:
    for name in ("alpha", "beta"):
        each = program(name)
        for n in range(20):
            each.log(1 / (n + 1))
    view = terminal(80, 24)
    view.until(lambda text: "alpha" in text and "beta" in text and "train/loss" in text)
    view.press("Space", "Down")
    view.until(lambda text: text.count("●") == 2)
    view.press("/", "a", "c", "c", "Enter")
    screen = view.until(lambda text: "/acc" in text and "train/loss" not in text)
    assert "val/acc" in screen
    view.press("l", "+")
    view.until(lambda text: "log" in text.splitlines()[0] and "zoom 2x" in text.splitlines()[0])
    view.press("Tab", "Tab")
    view.until(lambda text: re.search(r"\d+ of \d+ in MLflow|pending", text))
    view.press("?")
    view.until(lambda text: "logarithmic scale" in text)
    view.press("?", "q")
    view.until(lambda _: view.over)


def test_there_are_colours_but_under_no_color(
    program: Callable[[str], _Program], terminal: Callable[..., _Terminal]
) -> None:
    program("alpha").log(1.0)
    coloured = re.compile(r"\x1b\[[0-9;]*(3[0-7]|38|48|9[0-7])[;m]")
    view = terminal(80, 24)
    view.until(lambda text: "train/loss" in text)
    assert coloured.search(view.screen(colours=True))
    plain = terminal(80, 24, NO_COLOR="1")
    plain.until(lambda text: "train/loss" in text)
    assert not coloured.search(plain.screen(colours=True))


def test_runs_of_a_store_are_seen_from_a_machine_that_has_none(
    program: Callable[[str], _Program], terminal: Callable[..., _Terminal], sqlite_uri: str, tmp_path: Path
) -> None:
    one = program("alpha")
    for n in range(20):
        one.log(1 / (n + 1))
    one.close()
    view = terminal(120, 40, "--tracking-uri", sqlite_uri, TAILRACE_DIR=str(tmp_path / "elsewhere"))
    screen = view.until(lambda text: "train/loss" in text and "0.05" in text)
    assert "alpha" in screen
    assert "FINISHED" in screen
