"""Lists that are given page by page, and those that never end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tailrace_agent.errors import Unavailable
from tailrace_agent.mlflow.pages import pages


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
