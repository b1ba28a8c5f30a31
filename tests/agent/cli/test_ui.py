"""`tailrace ui`: what it shows, and what it cannot."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile

import pytest
from click.testing import CliRunner

from helpers.commands import tailrace
from helpers.sdk_tools import newer_than_mlflow_3_7, tracking
from tailrace_agent.cli import main, ui
from tailrace_agent.cli._app import Fail
from tailrace_agent.reading.reader import open_reader


def test_ui_says_what_it_cannot_show() -> None:
    server = tailrace("ui", "--tracking-uri", "https://ada:secret@mlflow.example/")
    assert (server.exit_code, server.stdout) == (0, "open https://mlflow.example in a browser\n")
    assert "tailrace: no links to runs: the host name in https://mlflow.example cannot be resolved" in server.stderr
    absent = tailrace("ui")
    assert absent.exit_code == 1
    assert "tailrace demo" in absent.stderr


_KIND = "?workflowType=machine_learning"


def test_the_ui_of_a_server_is_the_server_and_its_links_are_printed(mlflow_server: str) -> None:
    with tracking(mlflow_server, experiment_name="ui-links") as tracker:
        for name in ("older", "newer"):
            with tracker.start_run(run_name=name) as run:
                run.log(loss=1.0)
    record = open_reader(mlflow_server, "/").record(open_reader(mlflow_server, "/").find(run.run_id))
    assert run.url == record.url == f"{mlflow_server}/#/experiments/{record.experiment_id}/runs/{run.run_id}{_KIND}"
    asked = ["ui", "--tracking-uri", mlflow_server]
    result = CliRunner().invoke(main, asked, env={"TAILRACE_EXPERIMENT_NAME": "ui-links"})
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"open {mlflow_server}/#/experiments/{record.experiment_id}{_KIND} in a browser",
        f"the newest run, newer: {record.url}",
    ]


def test_addresses_are_written_so_that_a_browser_takes_them() -> None:
    assert [ui._shown(host) for host in ("127.0.0.1", "0.0.0.0", "::1", "::", "mlflow")] == [
        "127.0.0.1", "127.0.0.1", "[::1]", "[::1]", "mlflow",
    ]  # fmt: skip


def test_a_busy_port_makes_way_for_the_next_and_none_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert port < ui._free_port("127.0.0.1", port) <= port + 50
        monkeypatch.setattr(ui, "_PORTS", 1)
        with pytest.raises(Fail, match=f"no free port from {port} to {port}"):
            ui._free_port("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "said"),
    [("nowhere.invalid", "is no address of this machine"), ("192.0.2.1", "cannot listen on 192.0.2.1")],
)
def test_a_host_that_is_not_this_machine_is_a_usage_error(sqlite_uri: str, host: str, said: str) -> None:
    result = tailrace("ui", "--tracking-uri", sqlite_uri, "--host", host)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


def test_a_port_for_root_alone_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(Fail, match="port 80 needs root; choose one above 1023"):
        ui._free_port("127.0.0.1", 80)


@newer_than_mlflow_3_7("still takes plain files")
def test_a_store_that_mlflow_cannot_use_is_reported_before_anything_starts() -> None:
    result = tailrace("ui", "--tracking-uri", "./plain-files")
    assert (result.exit_code, "MLFLOW_ALLOW_FILE_STORE" in result.stderr) == (3, True)


def test_a_server_that_ends_at_once_is_reported_with_its_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryFile() as output:
        output.write(b"one\ntwo\nthree\nfour\n")
        server = subprocess.Popen([sys.executable, "-c", ""])
        server.wait()
        with pytest.raises(Fail, match="did not start: two / three / four"):
            ui._wait_until_ready(server, "127.0.0.1", 9, output)
