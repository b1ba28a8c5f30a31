"""The handle of a model: what is known of it, and that nothing is raised for what the outside does."""

from __future__ import annotations

import pytest

from tailrace._api.model_handle import ModelHandle, no_model
from tailrace._models.progress import ModelProgress
from tailrace_agent.ipc.records import ModelOutcome


def handle(outcome: ModelOutcome | None) -> ModelHandle:
    return ModelHandle("net", ModelProgress(None, "", outcome))


def test_a_model_on_its_way_has_nothing_yet() -> None:
    waiting = handle(None)
    assert (waiting.done, waiting.model_uri, waiting.version, waiting.error) == (False, None, None, None)
    assert not waiting.wait(0)
    assert repr(waiting) == "<tailrace.ModelHandle 'net': on its way>"


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (ModelOutcome("models:/m-1", "3"), "in MLflow, models:/m-1, version 3"),
        (ModelOutcome("models:/m-1"), "in MLflow, models:/m-1"),
        (ModelOutcome("models:/m-1", error="not registered"), "not registered, models:/m-1"),
        (ModelOutcome(error="cannot be saved"), "cannot be saved"),
    ],
)
def test_what_became_of_a_model_is_what_the_handle_has_and_shows(outcome: ModelOutcome, shown: str) -> None:
    there = handle(outcome)
    assert there.wait(0)
    assert (there.model_uri, there.version, there.error) == (outcome.uri, outcome.version, outcome.error)
    assert repr(there) == f"<tailrace.ModelHandle 'net': {shown}>"


def test_foreign_text_stays_text_in_a_notebook() -> None:
    assert "<script>" not in handle(ModelOutcome(error="<script>"))._repr_html_()


def test_what_stands_for_a_model_that_could_not_be_taken_is_over_at_once() -> None:
    assert no_model().wait(60)
    assert no_model().error == "it could not be logged"
