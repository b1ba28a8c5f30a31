"""A headless Chromium for tests, steered through chromedriver's own HTTP interface (W3C WebDriver)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.missing import missing

__all__ = ["Browser", "browser", "need_browser"]

_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]
_HERE = "http://127.0.0.1"


class Browser:
    """One window.

    Args:
        session: Address of the WebDriver session.
    """

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, url: str) -> None:
        """Goes to a page."""
        _call(f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """What a function body in JavaScript returns in the page."""
        return _call(f"{self._session}/execute/sync", {"script": script, "args": []})

    def text(self) -> str:
        """All that can be read."""
        return str(self.run("return document.body.innerText"))

    def wait(self, script: str, seconds: float = 60.0) -> Any:
        """The first true answer of a script."""
        deadline = time.monotonic() + seconds
        while not (answer := self.run(script)):
            assert time.monotonic() < deadline, f"{script}: never true on\n{self.text()[:2000]}"
            time.sleep(0.2)
        return answer

    def screenshot(self, path: Path) -> None:
        """What can be seen, as a PNG."""
        with urllib.request.urlopen(f"{self._session}/screenshot", timeout=60) as answer:
            path.write_bytes(base64.b64decode(json.load(answer)["value"]))


def need_browser() -> None:
    """Without a browser: a skip, and under `CI=true` a failure."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if absent:
        missing(f"{' and '.join(absent)} missing; on Debian: apt install chromium chromium-driver")


@contextlib.contextmanager
def browser(directory: Path, *, width: int = 1280, height: int = 960) -> Iterator[Browser]:
    """A browser with an empty profile in `directory`."""
    driver, port = _driver(directory)
    try:
        base = f"{_HERE}:{port}/session"
        arguments = [*_ARGUMENTS, f"--user-data-dir={directory / 'profile'}", f"--window-size={width},{height}"]
        options = {"binary": shutil.which("chromium"), "args": arguments}
        patience = {"script": 150_000, "pageLoad": 150_000}  # a busy machine draws charts in software
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options, "timeouts": patience}}}
        session = f"{base}/{_call(base, wanted)['sessionId']}"
        try:
            yield Browser(session)
        finally:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(urllib.request.Request(session, method="DELETE"), timeout=20).close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGTERM)
        driver.wait(20)


def _driver(directory: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A chromedriver, and the port that it has chosen."""
    log, mark = directory / "chromedriver.log", "started successfully on port "
    deadline = time.monotonic() + 60
    while True:
        with log.open("w") as output:
            driver = subprocess.Popen(
                ["chromedriver", "--port=0"], stdout=output, stderr=output, start_new_session=True, cwd=directory
            )
        while mark not in (text := log.read_text()) and driver.poll() is None:
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        if mark in (text := log.read_text()):
            return driver, int(text.partition(mark)[2].split(".")[0])
        # It looks for a port that is free for IPv6 and then takes it for IPv4, too, where it need not be.
        assert "Address already in use" in text, text
        assert time.monotonic() < deadline, text


def _call(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=180) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()[:2000]) from None
