"""What a server says becomes ours: numbers within bounds, names and messages in plain sight, places checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.errors import Refused, Unavailable
from tailrace_agent.ipc.records import RunSpec, Start
from tailrace_agent.mlflow.errors import retry_after
from tailrace_agent.mlflow.pages import pages
from tailrace_agent.mlflow.stores import open_repository
from tailrace_agent.reading.history import _from_server
from tailrace_agent.retry import LONGEST, Backoff
from tailrace_agent.text.quoting import plain, quoted

_NOW = datetime(2024, 5, 1, tzinfo=timezone.utc)
_ID = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("60", 60.0),
        ("1.5", 1.5),
        ("-5", 0.0),
        ("7200", LONGEST),
        ("9" * 60_000, None),
        ("1e300", LONGEST),
        ("1e400", None),
        ("inf", None),
        ("-Infinity", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Wed, 01 May 2024 00:01:00 GMT", 60.0),
        ("Tue, 30 Apr 2024 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST),
        ("Fri, 99 Dec 99999999999999 23:59:59 GMT", None),
    ],
)
def test_a_wait_that_a_server_asks_for_is_kept_within_an_hour(said: str, kept: float | None) -> None:
    assert retry_after(said, _NOW) == kept


@given(st.text())
def test_no_text_makes_the_wait_anything_but_seconds_within_an_hour(said: str) -> None:
    wait = retry_after(said, _NOW)
    assert wait is None or 0 <= wait <= LONGEST


@given(st.floats())
def test_no_number_makes_the_next_try_a_moment_that_never_comes(after: float) -> None:
    assert math.isfinite(Backoff().failed(5.0, after))


@given(st.text(), st.integers(1, 600))
def test_what_others_say_is_one_line_of_what_can_be_seen(text: str, limit: int) -> None:
    shown = plain(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert quoted(text, limit).isprintable()


def test_a_notice_is_short_and_steers_no_terminal() -> None:
    book = RunBook({}, lambda _run, _state: None)
    book.start(Start(RunSpec(run=1, start_time=5, cwd="/", owned=True)), "ring")
    book.notice(1, "\x1b[2J" + "k" * 3_000_000)
    book.trouble(None, "\x1b]0;x\x07" + "k" * 3_000_000)
    state = book.get(1)
    assert state is not None
    for text in (state.notices[0], state.problem or ""):
        assert text.isprintable()
        assert len(text) <= 1000


class _Page(list[int]):
    token: str | None = None


def _pages(*tokens: str | None, entries: tuple[int, ...] = (1,)) -> Iterator[_Page]:
    for token in tokens:
        page = _Page(entries)
        page.token = token
        yield page


def test_pages_are_read_to_their_end() -> None:
    told = _pages("a", "b", None)
    assert [list(page) for page in pages(lambda _: next(told))] == [[1], [1], [1]]


@pytest.mark.parametrize("tokens", [("a", "a"), ("a", "b", "a")])
def test_pages_that_go_round_in_a_circle_end(tokens: tuple[str, ...]) -> None:
    told = _pages(*tokens)
    with pytest.raises(Unavailable, match="has no end"):
        list(pages(lambda _: next(told)))


def test_empty_pages_do_not_go_on_and_on() -> None:
    told = _pages(*map(str, range(1000)), entries=())
    with pytest.raises(Unavailable, match="has no end"):
        list(pages(lambda _: next(told)))


def test_pages_that_are_always_new_end_where_nobody_could_stop_them() -> None:
    told = _pages(*map(str, range(9)), None)
    assert len(list(pages(lambda _: next(told), 10))) == 10
    told = _pages(*map(str, range(1000)))
    with pytest.raises(Unavailable, match="10 pages were read"):
        list(pages(lambda _: next(told), 10))


@pytest.mark.parametrize(
    ("tokens", "points"), [([f"t{number}" for number in range(1000)], 0), (["a", "b", "a"], 0), (["a", "b", "a"], 1)]
)
def test_a_history_that_a_server_never_ends_is_none(tokens: list[str], points: int) -> None:
    told = iter(tokens)
    page = {"metrics": [{"timestamp": "1", "value": 1.0, "step": "1"}] * points}
    history = _from_server(lambda _: json.dumps({**page, "next_page_token": next(told)}).encode(), _ID, "loss")
    with pytest.raises(Unavailable, match="has no end"):
        list(history)


def test_a_history_is_read_over_pages_with_nothing_on_them() -> None:
    point = {"timestamp": "1", "value": "NaN", "step": "7"}
    told = [{"next_page_token": "a"}, {"metrics": [point], "next_page_token": "b"}, {"metrics": [point]}]
    asked: list[str | None] = []

    def fetch(request: dict[str, str]) -> bytes:
        asked.append(request.get("page_token"))
        return json.dumps(told[len(asked) - 1]).encode()

    assert [list(piece.step) for piece in _from_server(fetch, _ID, "loss")] == [[7], [7]]
    assert asked == [None, "a", "b"]


@pytest.mark.parametrize(
    "where", ["/home/ada/.ssh", "file:///home/ada/.config/autostart", f"/srv/{_ID}/artifacts/../../.ssh", "", "runs"]
)
def test_a_server_cannot_have_files_put_into_any_directory(where: str) -> None:
    with pytest.raises(Refused, match="no directory of a run"):
        open_repository(where, "http://127.0.0.1:9", 1.0)


@pytest.mark.parametrize("where", [f"/srv/0/{_ID}/artifacts", f"file:///srv/0/models/m-{_ID}/artifacts"])
def test_a_server_that_serves_no_artifacts_has_them_where_mlflow_makes_a_place(where: str) -> None:
    assert open_repository(where, "http://127.0.0.1:9", 1.0).artifact_dir.endswith("/artifacts")


def test_a_store_of_ones_own_has_its_files_anywhere(tmp_path: str) -> None:
    assert open_repository(f"{tmp_path}/anywhere", "sqlite:///x.db", 1.0)


def test_credentials_are_for_the_tracking_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cr3t")
    path = f"/api/2.0/mlflow-artifacts/artifacts/0/{_ID}/artifacts"
    for where, token in (("https://mlflow.example", "s3cr3t"), ("http://mlflow.example", None), ("http://evil", None)):
        repository = open_repository(where + path, "https://mlflow.example/", 1.0)
        assert repository._host_creds.token == token
