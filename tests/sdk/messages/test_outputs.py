"""Outputs that change in place: sent when they have changed, until they are over, and never a program's problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tailrace._messages.outputs import Drawn, Outputs


class Shell:
    """IPython's, as far as it is needed here."""

    def __init__(self) -> None:
        self.display_pub = self
        self.sent: list[tuple[str, bool]] = []
        self.ids: set[str] = set()
        self.fails = False

    def publish(self, data: dict[str, str], metadata: dict[str, Any], transient: dict[str, str], update: bool) -> None:
        if self.fails:
            raise RuntimeError("the kernel is gone")
        self.sent.append((data["text/plain"], update))
        self.ids.add(transient["display_id"])


@pytest.fixture
def shell() -> Shell:
    return Shell()


@pytest.fixture
def outputs(shell: Shell) -> Outputs:
    return Outputs(shell, lambda _: None)


def drawing(*texts: str, last: str) -> Callable[[], Drawn]:
    left = list(texts)
    return lambda: Drawn("", left.pop(0)) if left else Drawn("", last, over=True)


def test_what_has_changed_is_sent_in_place_of_what_was_there_and_nothing_twice(shell: Shell, outputs: Outputs) -> None:
    outputs.keep(drawing("a", "a", "b", last="c"), about=1)
    for _ in range(6):
        outputs.refresh()
    assert shell.sent == [("a", False), ("b", True), ("c", True)]
    assert len(shell.ids) == 1


def test_what_is_over_at_once_is_drawn_once(shell: Shell, outputs: Outputs) -> None:
    calls = []

    def draw() -> Drawn:
        calls.append(1)
        return Drawn("", "done", over=True)

    outputs.keep(draw, about=1)
    outputs.refresh()
    assert (len(calls), shell.sent) == (1, [("done", False)])


def test_each_output_has_a_place_of_its_own(shell: Shell, outputs: Outputs) -> None:
    outputs.keep(drawing("a", last="b"), about=1)
    outputs.keep(drawing("x", last="y"), about=1)
    outputs.refresh()
    assert sorted(text for text, _ in shell.sent) == ["a", "b", "x", "y"]
    assert len(shell.ids) == 2


def test_one_that_cannot_be_drawn_any_more_stays_as_it_is_and_disturbs_no_other(shell: Shell, outputs: Outputs) -> None:
    def broken() -> Drawn:
        if shell.sent:
            raise ValueError
        return Drawn("", "as it is")

    outputs.keep(broken, about=1)
    outputs.keep(drawing("a", last="b"), about=2)
    outputs.refresh()
    outputs.refresh()
    assert shell.sent == [("as it is", False), ("a", False), ("b", True)]


def test_of_many_that_go_on_the_last_ones_are_kept_up_to_date(shell: Shell, outputs: Outputs) -> None:
    drawn = [0] * 60

    def count(n: int) -> Drawn:
        drawn[n] += 1
        return Drawn("", f"{n}: {drawn[n]}")

    for n in range(60):
        outputs.keep(lambda n=n: count(n), about=n)  # type: ignore[misc]
    outputs.refresh()
    assert drawn == [1] * 10 + [2] * 50


def test_a_kernel_that_shows_nothing_any_more_is_nobodys_problem(shell: Shell, outputs: Outputs) -> None:
    shell.fails = True
    outputs.keep(drawing("a", last="b"), about=1)
    outputs.refresh()
    assert shell.sent == []


def test_it_is_known_what_there_is_an_output_about(outputs: Outputs) -> None:
    outputs.keep(drawing(last="a"), about=1)
    assert (outputs.shows(1), outputs.shows(2)) == (True, False)


def test_a_thread_draws_until_all_is_over(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace._messages.outputs._EVERY", 0.0)
    begun: list[Callable[[], None]] = []
    outputs = Outputs(shell, begun.append)
    outputs.keep(drawing("a", "b", last="c"), about=1)
    begun[0]()
    assert [text for text, _ in shell.sent] == ["a", "b", "c"]
    outputs.keep(drawing("again", last="over"), about=2)
    assert len(begun) == 2
