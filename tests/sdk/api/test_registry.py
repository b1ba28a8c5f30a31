"""The model registry as users call it: versions, stages and aliases, in whichever store."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from mlflow import MlflowClient

from helpers.models import Sunk, fitted
from helpers.sdk_tools import tracking
from tailrace import CallError, NotFound, Tracker


@pytest.mark.slow
def test_stages_are_aliases_and_an_archived_version_loses_them(tracker: Tracker, sqlite_uri: str, saved: Path) -> None:
    with tracker.start_run() as run:
        for stage in ("staging", "production", "canary"):
            run.register_model(saved, "m", stage=stage, description=stage)
        run.register_model(saved, "other")
    client = MlflowClient(sqlite_uri)

    def state() -> list[tuple[list[str], str, str]]:
        table = tracker.list_models("m").sort_values("version")
        theirs = [client.get_model_version("m", str(number)).current_stage for number in table["version"]]
        return list(zip(table["aliases"].tolist(), table["stage"].tolist(), theirs, strict=True))

    assert state() == [
        (["staging"], "staging", "Staging"),
        (["production"], "production", "Production"),
        (["canary"], "none", "None"),
    ]
    tracker.promote_model("m", 1, stage="Production", alias="champion")
    tracker.archive_model("m", 3)
    assert state() == [
        (["champion", "production"], "production", "Production"),
        ([], "archived", "Archived"),
        (["canary"], "archived", "Archived"),
    ]
    tracker.promote_model("m", 3, stage="none")
    tracker.promote_model("m", 1, stage="none")
    assert state()[0] == (["champion"], "none", "None")
    assert state()[2] == (["canary"], "none", "None")
    assert tracker.list_models()["name"].tolist() == ["m", "m", "m", "other"]
    with pytest.raises(NotFound, match=r"'m' has no alias 'best'; its newest version is 3, its aliases: canary"):
        tracker.load_model("m", alias="best")
    with pytest.raises(NotFound, match="there is no registered model 'n'"):
        tracker.archive_model("n", 1)
    with pytest.raises(NotFound, match="has no model 'x'; it has: m, other"):
        tracker.load_model("x", run_id=run.run_id)
    with pytest.raises(NotFound, match="m-0"):
        tracker.load_model("models:/m-0")
    with pytest.raises(NotFound, match="not found"):
        tracker.load_model("m", run_id="0" * 32)
    with pytest.raises(CallError, match="alias and version were passed"):
        tracker.load_model("m", alias="canary", version=3)
    assert tracker.load_model("models:/m/latest").coef_.any()


def test_a_model_that_mlflow_has_is_registered_by_its_uri(
    sunk: Sunk, store_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"u{sunk.spec.registered_name}"
    sunk.spec = msgspec.structs.replace(sunk.spec, registered_name=None, aliases=())
    uri = str(sunk.log().uri)
    tracker = Tracker(tracking_uri=store_uri)
    for number, source in enumerate((uri, f"runs:/{sunk.run_id}/m"), 1):
        handle = tracker.register_model(source, name, alias="best", stage="staging", tags={"a": 1}, description="d")
        assert handle.wait()
        assert (handle.error, handle.version, handle.model_uri) == (None, str(number), source)
    assert tracker.load_model(f"models:/{name}@best").coef_.any()
    assert tracker.list_models(name)["tags"].tolist() == [{"a": "1"}] * 2
    for bad in ("models:/m-0", "runs:/nowhere/m", f"models:/{name}/1"):
        assert tracker.register_model(bad, name).error
        assert f"{bad} was not registered as" in caplog.text


def test_the_registry_may_be_another_store(sqlite_uri: str, tmp_path: Path) -> None:
    registry = f"sqlite:///{tmp_path}/registry.db"
    Path(tmp_path, "registry.db").write_bytes(Path(sqlite_uri.removeprefix("sqlite:///")).read_bytes())
    with tracking(sqlite_uri, registry_uri=registry) as tracker, tracker.start_run() as run:
        handle = run.register_model(fitted(), "m")
        assert handle.wait()
        assert handle.version == "1"
        assert tracker.load_model("m").coef_.any()
    assert MlflowClient(sqlite_uri).search_registered_models() == []
