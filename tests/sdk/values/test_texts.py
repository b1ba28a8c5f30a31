"""What users pass where MLflow has a text: whatever has one, or an error that names it."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.sdk_tools import Store
from tailrace import CallError, Tracker


class Phase(str, enum.Enum):
    WARM = "warm"


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("name", [42, np.int64(42), np.str_("42"), Path("42"), Phase.WARM])
def test_a_text_may_be_anything_that_has_one(sdk: Tracker, sqlite_uri: str, name: Any) -> None:
    shown = "warm" if name is Phase.WARM else str(name)
    tags = {name: name, "n": None, 1: 2}
    with sdk.start_run(run_name=name, description=name, tags=tags, experiment_name=name) as run:
        sdk.set_tags({"later": name, name: 1})
        sdk.set_tag(name, name)
        sdk.log(step=0, loss=1.0)
        sdk.log_text("text", Path("a", "b.txt"))
        sdk.log_dict({"a": 1}, np.str_("dict.json"))
        with sdk.start_run(parent_run_id=np.str_(run.run_id), nested=True) as child:
            sdk.log_metric("by id", 1.0, run_id=np.str_(child.run_id))
    store = Store(sqlite_uri, run)
    assert (store.run.info.run_name, store.tags["mlflow.note.content"]) == (shown, shown)
    assert (store.tags[shown], store.tags["later"], store.tags["n"], store.tags["1"]) == (shown, shown, "None", "2")
    assert store.client.get_experiment(store.run.info.experiment_id).name == shown
    assert store.artifacts() == ["a/b.txt", "dict.json"]
    assert store.status == "FINISHED"


def test_a_text_that_cannot_be_had_is_one_clear_error_at_the_call(sdk: Tracker, sqlite_uri: str) -> None:
    for name, given in {"run_name": Hostile(), "description": Hostile(), "tags": {"a": Hostile()}}.items():
        with pytest.raises(CallError, match=f"{name}.*its str\\(\\) raises RuntimeError: no words"):
            sdk.start_run(**{name: given})  # type: ignore[arg-type]
        assert sdk.active_run() is None
    with pytest.raises(CallError, match="tags must be a mapping, not list"):
        sdk.start_run(tags=["a"])  # type: ignore[arg-type]
    with sdk.start_run() as run:
        sdk.set_tag("a", Hostile())
        sdk.set_tag(Hostile(), "a")  # type: ignore[arg-type]
        sdk.log(step=0, loss=1.0)
    assert Store(sqlite_uri, run).status == "FINISHED"
