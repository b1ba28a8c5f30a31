"""That a machine's clock is off is known from the dates of a server's answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from tailrace_agent.mlflow.clocks import ahead_of, http_date, note_date
from tailrace_agent.rest.requests import send_once


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """One whose clock is so many seconds behind."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            for name, value in request.param.items():
                self.send_header(name, value() if callable(value) else value)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def _date(behind: float) -> str:
    return formatdate(time.time() - behind, usegmt=True)


@pytest.mark.parametrize(
    ("server", "ahead"),
    [
        ({"Date": lambda: _date(0)}, 0),
        ({"Date": lambda: _date(300)}, 300),
        ({"Date": lambda: _date(-7200)}, -7200),
        ({"Date": lambda: _date(300), "Age": "299"}, 0),
        ({"Date": "yesterday"}, 0),
        ({}, 0),
    ],
    indirect=["server"],
    ids=["the same", "five minutes", "two hours behind", "out of a cache", "no date", "none at all"],
)
def test_a_servers_answer_says_by_how_much_this_machines_clock_is_ahead(server: str, ahead: float) -> None:
    send_once(f"{server}/api", "GET", 10.0)
    assert ahead_of(f"{server.replace('//', '//ada:secret@')}/prefix") == pytest.approx(ahead, abs=5)
    assert ahead_of("http://elsewhere:5000") == ahead_of("sqlite:///mlflow.db") == 0


def test_a_date_is_read_as_http_and_others_write_it() -> None:
    assert http_date("Sun, 29 Nov 2026 12:00:00 GMT") == http_date("Sun, 29 Nov 2026 12:00:00 -0000")
    assert http_date("Sun, 29 Nov 2026 12:00:00 GMT" + " " * 10_000) is not None
    assert http_date("31 Feb 99999") is None


def test_servers_without_end_are_not_all_kept() -> None:
    for number in range(1000):
        response = requests.Response()
        response.url, response.headers["Date"] = f"http://host{number}/", _date(300)
        note_date(response)
    assert sum(ahead_of(f"http://host{number}") != 0 for number in range(1000)) < 100
