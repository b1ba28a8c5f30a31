"""How the plug-in comes into a program: `tailrace.store.placing` and `schemes`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow.tracking._tracking_service import utils

import tailrace
from helpers.entry_points import lay_entry_points
from helpers.sdk_tools import Store, forget, script


@pytest.fixture
def entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", lay_entry_points(tmp_path))


PLAIN = """
import sys
import mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5, step=1)
    mlflow.log_text("text", "text.txt")
    print(type(mlflow.MlflowClient()._tracking_client.store).__name__, run.info.run_id)
    assert mlflow.artifacts.load_text(run.info.artifact_uri + "/text.txt") == "text"
print(mlflow.get_registry_uri(), [m.name for m in mlflow.search_registered_models()])
"""


@pytest.mark.slow
def test_a_tracking_uri_is_all_that_it_takes(store_uri: str, tmp_path: Path, entry_points: None) -> None:
    done = script(tmp_path, PLAIN, MLFLOW_TRACKING_URI=f"tailrace+{store_uri}")
    kind, run_id = done.stdout.split()[:2]
    assert kind == ("TailraceSqlAlchemyStore" if store_uri.startswith("sqlite") else "TailraceRestStore")
    run = Store(store_uri, run_id)
    assert (run.status, run.history("loss"), run.artifacts()) == ("FINISHED", [(1, 0.5)], ["text.txt"])
    forget(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["databricks", "databricks://profile", "of-another-plug-in://host"])
def test_a_scheme_that_cannot_have_tailrace_before_it_names_the_other_way_in(
    tmp_path: Path, entry_points: None, uri: str
) -> None:
    code = """
    import mlflow
    try:
        mlflow.MlflowClient()
    except mlflow.MlflowException as error:
        print(error)
    """
    done = script(tmp_path, code, MLFLOW_TRACKING_URI=f"tailrace+{uri}")
    assert f"tailrace+{uri.partition(':')[0]} is no tracking URI" in done.stdout
    assert (
        "leave tailrace+ out of it, and call tailrace.install() or start the program by `tailrace run`" in done.stdout
    )


@pytest.mark.slow
def test_a_scheme_that_nobody_knows_is_mlflow_s_own_error_where_a_script_sets_it(
    tmp_path: Path, entry_points: None
) -> None:
    code = """
    import mlflow
    mlflow.set_tracking_uri("tailrace+nonsense://host")
    try:
        mlflow.MlflowClient()
    except mlflow.MlflowException as error:
        print(error)
    """
    done = script(tmp_path, code)
    assert "unsupported URI 'tailrace+nonsense://host'" in done.stdout
    assert "'tailrace+https'" in done.stdout


def test_an_mlflow_whose_stores_cannot_be_stood_before_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(utils, "_tracking_store_registry")
    with pytest.raises(ImportError, match=r"tailrace.install\(\) needs MLflow 3.7 or newer, below 4; this is "):
        tailrace.install()
    assert "TAILRACE_INSTALLED" not in os.environ


@pytest.mark.slow
def test_a_uri_of_one_s_own_is_served_and_others_stay_mlflow_s(
    mlflow_server: str, tmp_path: Path, entry_points: None
) -> None:
    code = """
    import sys
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import get_registered_artifact_repositories
    plain = mlflow.MlflowClient(SERVER)
    print(type(plain._tracking_client.store).__name__, "tailrace" in sys.modules)
    assert isinstance(get_registered_artifact_repositories()["mlflow-artifacts"], type)
    mlflow.set_tracking_uri("tailrace+" + SERVER)
    with mlflow.start_run() as run:
        import tailrace
        tailrace.log(loss=0.5)
        mlflow.log_text("text", "text.txt")
        assert mlflow.artifacts.load_text(run.info.artifact_uri + "/text.txt") == "text"
    client = mlflow.MlflowClient("tailrace+" + SERVER)
    print(type(client._tracking_client.store).__name__, type(plain._tracking_client.store).__name__)
    client.log_metric(run.info.run_id, "loss", 0.25, step=1)
    print(run.info.run_id)
    """
    quiet = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    done = script(tmp_path, code.replace("SERVER", repr(mlflow_server)), **quiet)
    *kinds, run_id = done.stdout.split()
    assert kinds == ["RestStore", "False", "TailraceRestStore", "RestStore"]
    run = Store(mlflow_server, run_id)
    assert (run.status, run.history("loss"), run.artifacts()) == ("FINISHED", [(0, 0.5), (1, 0.25)], ["text.txt"])
    forget(tmp_path)


@pytest.mark.slow
def test_uris_with_a_driver_and_of_each_scheme_find_the_plug_in(tmp_path: Path, entry_points: None) -> None:
    code = """
    from mlflow.tracking._model_registry.utils import _get_store_registry
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry as registry
    schemes = "file http https mssql mssql+pyodbc mysql mysql+pymysql mysql+mysqldb postgresql sqlite"
    for scheme in [*schemes.split(), "postgresql+psycopg", "postgresql+psycopg2"]:
        builders = [each.get_store_builder(f"tailrace+{scheme}://x/y") for each in (registry, _get_store_registry())]
        print(*{build.__module__ for build in builders})
    """
    assert set(script(tmp_path, code).stdout.split()) == {"tailrace_mlflow"}


@pytest.mark.slow
def test_a_plug_in_that_is_installed_late_serves_the_run_that_is_active(sqlite_uri: str, tmp_path: Path) -> None:
    code = """
    import mlflow, tailrace
    run = mlflow.start_run()
    mlflow.log_param("before", 1)
    tailrace.install()
    tailrace.install()
    print(run.info.run_id)
    tailrace.log(step=3, also=1.0)
    mlflow.log_metric("after", 1.0)
    try:
        mlflow.log_param("before", 2)
    except mlflow.MlflowException as error:
        print(error.error_code)
    """
    done = script(tmp_path, code, MLFLOW_TRACKING_URI=sqlite_uri)
    run_id, refused = done.stdout.split()
    assert refused == "INVALID_PARAMETER_VALUE"
    run = Store(sqlite_uri, run_id)
    assert (run.status, run.history("after"), run.params) == ("FINISHED", [(0, 1.0)], {"before": "1"})
    assert run.history("also") == [(3, 1.0)]
    forget(tmp_path)


@pytest.mark.slow
def test_with_tailrace_off_every_call_is_mlflow_s_own(sqlite_uri: str, tmp_path: Path) -> None:
    code = """
    import mlflow, tailrace
    tailrace.install()
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0)
        mlflow.log_param("lr", 1)
    print(run.info.run_id)
    """
    done = script(tmp_path, code, MLFLOW_TRACKING_URI=sqlite_uri, TAILRACE_ENABLED="false")
    run = Store(sqlite_uri, done.stdout.split()[0])
    assert (run.status, run.history("loss"), run.params) == ("FINISHED", [(0, 1.0)], {"lr": "1"})
    assert not list((tmp_path / "tailrace").glob("sessions/*"))
