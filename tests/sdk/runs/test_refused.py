"""What cannot work at all is one clear error or one warning; a server that is away is neither."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.sdk_tools import Store, eventually, newer_than_mlflow_3_7, tracking, warnings
from tailrace import SettingsError, StoreRefused, Tracker
from tailrace._api.tracker_part import tracker_core_of
from tailrace._runs.program_end import end_all
from tailrace._runs.run_part import core_of
from tailrace_agent.ipc.session import Session
from tailrace_agent.settings.settings import Settings
from tailrace_agent.spool.store import Spool


def sessions(directory: Path) -> list[Session]:
    return list(Session.all(Settings(dir=str(directory))))


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_start_run_does_not_wait_for_a_server_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    with (
        black_hole() as uri,
        tracking(uri, on_error="warn", end_timeout=0.5, exit_timeout=0, request_timeout=0.3) as sdk,
    ):
        run = sdk.start_run(params={"lr": 0.1}, tags={"a": "b"})
        run.log(loss=1)
        sdk.log(loss=2)
        sdk.log_text("text", "text.txt")
        status = core_of(run).status()
        assert status is None or status.run_id is None, "nobody has waited for MLflow"
        assert sdk.active_run() is run
        assert run.id in repr(run)
        began = time.monotonic()
        ledger = sdk.flush(0.3)
        assert time.monotonic() - began < 5
        assert (ledger.of("metric").pending, ledger.settled) == (2, False)
        with pytest.raises(TimeoutError, match=r"has not created the run within 0 s"):
            run.run_id  # noqa: B018 - asking is what waits
        sdk.end_run()
        assert time.monotonic() - began < 10
    assert any("2 points, 1 param and 1 artifact not delivered after 0.5 s" in text for text in warnings(caplog))


def test_what_a_server_missed_while_it_was_away_arrives_when_it_is_back(mlflow_server: str) -> None:
    """The same address answers nobody at first, then passes everything on to a real server."""
    host, port = mlflow_server.removeprefix("http://").split(":")
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{door.getsockname()[1]}"
        with tracking(uri, on_error="warn", experiment_name="away at first", retry_max_delay=0.2) as sdk:
            run = sdk.start_run()
            for step in range(100):
                sdk.log(x=step, step=step)
            eventually(lambda: (status := core_of(run).status()) and status.problem)
            assert sdk.flush(0.1).of("metric").pending == 100
            door.listen(64)
            threading.Thread(target=_pass_on, args=(door, host, int(port)), daemon=True).start()
            assert sdk.flush(30).settled
            sdk.end_run()
    assert set(Store(mlflow_server, run).history("x")) == {(step, float(step)) for step in range(100)}


def _pass_on(door: socket.socket, host: str, port: int) -> None:
    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    with contextlib.suppress(OSError):
        while True:
            near, _ = door.accept()
            far = socket.create_connection((host, port))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=copy, args=pair, daemon=True).start()


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        pytest.param("mlruns", "MLFLOW_ALLOW_FILE_STORE=true", marks=newer_than_mlflow_3_7("still takes plain files")),
        ("sqlite:/mlflow.db", "three slashes"),
        ("gopher://somewhere", "gopher"),
    ],
)
def test_a_store_that_mlflow_refuses_is_one_clear_error_at_start_run(
    tmp_path: Path, refused: str, message: str
) -> None:
    uri = tmp_path / refused if refused == "mlruns" else refused
    with tracking(str(tmp_path), tracking_uri=uri) as sdk:
        with pytest.raises(StoreRefused, match=message):
            sdk.start_run()
        assert sdk.active_run() is None


def test_a_server_without_a_scheme_is_an_error_at_once_that_says_what_to_write() -> None:
    sdk = Tracker(agent="off")
    for uri in ("localhost:5000", "mlflow.example.org:5000", "10.0.0.1:5000"):
        with pytest.raises(SettingsError, match=f"a server needs a scheme; write http://{uri}"):
            sdk.set_tracking_uri(uri)
        with pytest.raises(SettingsError, match=f"http://{uri}"):
            sdk.start_run(tracking_uri=uri)
        with pytest.raises(SettingsError, match=f"http://{uri}"):
            Tracker(uri)


@pytest.mark.parametrize(
    "refused", [pytest.param("mlruns", marks=newer_than_mlflow_3_7("still takes plain files")), "gopher://somewhere"]
)
def test_under_warn_a_refused_store_is_one_warning_and_the_run_is_kept_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, refused: str
) -> None:
    uri = str(tmp_path / refused) if refused == "mlruns" else refused
    with tracking(uri, on_error="warn", end_timeout=20) as sdk:
        run = sdk.start_run(params={"lr": 0.1})
        for step in range(500):
            sdk.log(x=step, step=step)
        sdk.log_text("text", "text.txt")
        began = time.monotonic()
        ledger = sdk.flush()
        with pytest.raises(StoreRefused):
            run.run_id  # noqa: B018 - asking is what waits
        sdk.end_run()
        assert time.monotonic() - began < 10, "there is nothing to wait for"
        assert (ledger.of("metric").pending, ledger.balanced) == (500, True)
    (said,) = warnings(caplog)
    assert "The run is kept on this machine: `tailrace sync` delivers it later." in said
    (session,) = sessions(tmp_path / "tailrace")
    spool = Spool(session.dir / "spool.db")
    assert spool.counts.ledger(core_of(run).spec.run).of("metric").pending == 500
    spool.close()
    session.remove()


def test_the_backend_none_makes_every_call_a_no_op_that_leaves_nothing_behind(
    sqlite_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rings = tmp_path / "rings"  # other programs of this machine have theirs where all have them
    rings.mkdir()
    threads = set(threading.enumerate())
    sdk = Tracker(tracking_uri=sqlite_uri, backend="none", ring_dir=str(rings))
    sdk.set_experiment("never made")
    sdk.log(before=1)  # starts a run, as ever
    sdk.end_run()
    with sdk.start_run(params={"a": object()}, tags={"b": 1}, description="c") as run:
        assert sdk.active_run() is run
        for call in (sdk, run):
            call.log({"x": object()}, y="text", step="no step")  # type: ignore[arg-type]
            call.log_metric("x", 1, step=2, timestamp=3)
            call.log_metrics({"x": "no number"}, step=1)
            assert call.log_param("p", 7) == 7
            call.log_params({"p": {"q": 1}})
            call.set_tag("t", 1)
            call.set_tags({"t": 2})
            call.log_artifact(tmp_path / "missing")
            call.log_artifacts(tmp_path / "missing")
            call.log_text("text", "text.txt")
            call.log_dict({}, "dict.json")
            call.log_figure(object(), "figure.png")
            call.log_image(object(), "image.png")
            call.log_table(object(), "table.json")
            assert call.flush().accepted == 0
        sdk.log_metric("x", 1, run_id="0" * 32, synchronous=True)
        assert (run.run_id, run.url, run.ledger().accepted, run.info.run_id) == ("", None, 0, "")
        with sdk.start_run(nested=True):
            sdk.log(x=1)
    sdk.end_run()
    assert run.status == "FINISHED"
    end_all([tracker_core_of(sdk).runs])
    assert not (tmp_path / "tailrace").exists()
    assert list(rings.iterdir()) == []
    assert set(threading.enumerate()) <= threads
    assert "tailrace" not in "".join(capsys.readouterr())
