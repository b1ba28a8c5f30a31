"""Notebooks: what is said appears in the cell that it is about, and the notebook is the run's program.

One notebook is executed once, in a real kernel; the tests look at what each of its cells shows.
"""

from __future__ import annotations

import re
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

from helpers.notebooks import kernel
from helpers.sdk_tools import eventually, forget, named, newer_than_mlflow_3_7
from tailrace import Settings
from tailrace_agent.ipc.session import Session
from tailrace_agent.runtime.program import in_notebook, program_file, program_name

CELLS = {
    "begin": """
import os, threading, time
from pathlib import Path
import tailrace as sdk
from tailrace._api.tracker_core import module_core
from tailrace._background.lane import LANE
from tailrace._messages.notebook import cells
import tailrace._messages.notebook
tailrace._messages.notebook._MOMENT = 60.0  # the machine may be slow
warn = module_core().voice.warn
""",
    "start": "run = sdk.start_run(run_name='<b>base</b>')\nrun",
    "caller": """
class Broken:
    def __str__(self):
        raise RuntimeError("no words")
sdk.log_params({"broken": Broken(), "lr": 0.1})
""",
    "nothing": "x = 1",
    "agent": "sdk.log(loss='high')\nsdk.log(accuracy=0.5)\nledger = sdk.flush()\nledger",
    "lane": "LANE.submit(lambda: warn('said by the lane'), on_error=print)\nassert LANE.drain(20)",
    "thread": """
now = threading.Event()
def keep():
    now.wait()
    warn("said by a thread of an earlier cell")
keeper = threading.Thread(target=keep, name="tailrace-keeper-of-the-test")
keeper.start()
""",
    "nothing more": "x = 2",
    "much later": "now.set()\nkeeper.join()",
    "users thread": "own = threading.Thread(target=sdk.log_param, args=('own', Broken()))\nown.start()\nown.join()",
    "before a pause": """
def between():
    while cells()._running:
        time.sleep(0.01)
    warn("said between two cells")
    Path("said").touch()
threading.Thread(target=between, name="tailrace-between").start()
""",
    "after a pause": "print('the next cell')",
    "reported": "sdk.log(late='high')",
    "after the report": "print('after the report')",
    "error": "sdk.log_param('again', Broken())\n1 / 0",
    "alert": "sdk.alert('look', level='info')\nsdk.alert('worse', level='error')",
    "away": """
with sdk.start_run(run_name='away', tracking_uri='http://127.0.0.1:9', nested=True, end_timeout=1.5):
    sdk.log(loss=1)
""",
    "await": """
import asyncio
await asyncio.sleep(0)
sdk.log_param('awaited', Broken())
sdk.log(step=1, accuracy=0.6)
""",
    "objects": """
display(run.info, sdk.set_experiment('shown'), sdk.get_run_info(run.run_id))
print('Comparison' in dir(sdk))
""",
    "end": "sdk.end_run()",
}
PAUSE = 15.0


class Notebook(NamedTuple):
    """What was shown, cell by cell, and afterwards."""

    outputs: dict[str, list[Any]]
    changed: dict[str, list[dict[str, str]]]
    late: str
    uri: str
    path: Path
    sessions: list[Session]

    def text(self, cell: str, stream: str) -> str:
        return "".join(each.text for each in self.outputs[cell] if each.output_type == "stream" and each.name == stream)

    def shown(self, cell: str) -> list[dict[str, str]]:
        return [each.data for each in self.outputs[cell] if each.output_type in ("execute_result", "display_data")]


def _pause(after: str, directory: Path) -> None:
    """Waits between two cells until what the first of them has begun is there."""
    if after == "before a pause":
        eventually((directory / "said").exists)
    elif after == "reported":
        (session,) = _sessions(directory)
        eventually(lambda: any(b"'late'" in told.read_bytes() for told in session.shared.glob("run-*.status")))


def _sessions(directory: Path) -> list[Session]:
    return list(Session.all(Settings(dir=str(directory / "tailrace"))))


def _late(client: NotebookClient) -> str:
    """What is shown below the last cell when it has ended, and no other one begins."""
    client.kc.execute("tailrace._messages.notebook._MOMENT = 0.1")
    client.kc.execute("late = sdk.start_run(run_name='late')")
    asked = client.kc.execute("sdk.log(very_late='high')")
    text, idle, deadline = "", False, time.monotonic() + PAUSE
    while "very_late" not in text and time.monotonic() < deadline:
        message = run_sync(client.kc.get_iopub_msg)(timeout=PAUSE)
        if message["parent_header"].get("msg_id") == asked:
            idle = idle or message["content"].get("execution_state") == "idle"
            text += message["content"].get("text", "") if idle else ""
    return text


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Notebook]:
    directory = tmp_path_factory.mktemp("notebook")
    path, uri = directory / "digits.ipynb", f"sqlite:///{directory}/mlflow.db"
    (directory / "mlflow.db").write_bytes(sqlite_template.read_bytes())
    with kernel(directory, uri, CELLS, path) as nb:
        for name in CELLS:
            nb.execute(name)
            _pause(name, directory)
        late = _late(nb.client)
    changed = {name: nb.changes(name) for name in CELLS}
    yield Notebook(nb.outputs, changed, late, uri, path, _sessions(directory))
    forget(directory)


@pytest.mark.slow
@newer_than_mlflow_3_7("prints what it does with its database")
def test_each_cell_has_the_warnings_that_it_caused_and_no_other(notebook: Notebook) -> None:
    unread = "tailrace: param '{}' could not be read: RuntimeError: no words\n"
    said = {cell: text for cell in CELLS if (text := notebook.text(cell, "stderr"))}
    assert "http://127.0.0.1:9" in said.pop("away")
    # The agent may have been as quick as the cell.
    assert said.pop("reported", said.pop("after the report", None)) == (
        "tailrace: metric 'late' was not logged: value is no number but str\n"
    )
    assert said == {
        "caller": unread.format("broken"),
        "agent": "tailrace: metric 'loss' was not logged: value is no number but str\n",
        "lane": "tailrace: said by the lane\n",
        "much later": "tailrace: said by a thread of an earlier cell\n",
        "users thread": unread.format("own"),
        "after a pause": "tailrace: said between two cells\n",
        "error": unread.format("again"),
        "alert": "tailrace: alert: worse\n",
        "await": unread.format("awaited"),
    }
    assert notebook.outputs["error"][-1].output_type == "error"


@pytest.mark.slow
def test_what_is_reported_after_the_last_cell_is_shown_below_it(notebook: Notebook) -> None:
    assert notebook.late == "tailrace: metric 'very_late' was not logged: value is no number but str\n"


@pytest.mark.slow
def test_result_lines_go_to_standard_output(notebook: Notebook) -> None:
    assert notebook.text("start", "stdout") == f"tailrace: run '<b>base</b>' in experiment 'Default' → {notebook.uri}\n"
    assert notebook.text("alert", "stdout") == "tailrace: alert: look\n"
    arrived, cost, where = notebook.text("end", "stdout").splitlines()
    assert arrived.startswith("tailrace: 4 points delivered with 1 param, 2 tags in ")
    assert arrived.endswith("2 dropped: value is no number; 4 dropped: could not be read")
    assert cost.startswith("tailrace: 2 calls of log() in ")
    assert where == f"tailrace: look at run '<b>base</b>' with `tailrace ui --tracking-uri {notebook.uri}`"


@pytest.mark.slow
def test_a_wait_is_one_line_that_changes_in_its_cell(notebook: Notebook) -> None:
    said = notebook.text("away", "stdout").splitlines()
    assert said == ["tailrace: run 'away' in experiment 'Default' → http://127.0.0.1:9"]
    (waited,) = notebook.shown("away")
    assert re.fullmatch(r"tailrace: waited \d+ s", waited["text/plain"])
    # Cards of other runs change as well, whichever cell it is.
    assert any("0 of 3 delivered; " in each["text/plain"] for each in notebook.changed["away"])
    assert "3 points not delivered after 1.5 s" in notebook.text("away", "stderr")
    assert "\x1b" not in str(notebook.outputs["away"])


@pytest.mark.slow
def test_objects_show_themselves_as_a_line_and_a_table(notebook: Notebook) -> None:
    (run,), (*_, ledger), (info, experiment, record) = map(notebook.shown, ("start", "agent", "objects"))
    assert re.fullmatch(r"<tailrace\.Run '<b>base</b>': FINISHED, run_id=[0-9a-f]{32}>", run["text/plain"])
    assert "&lt;b&gt;base&lt;/b&gt;" in run["text/html"]
    assert ledger["text/plain"].startswith("<tailrace.Ledger: 4 accepted, 2 delivered, ")
    assert experiment["text/plain"] == "<tailrace.ExperimentInfo 'shown'>"
    for each, kind in ((run, "Run"), (ledger, "Ledger"), (info, "RunInfo"), (record, "RunRecord")):
        assert each["text/plain"].startswith(f"<tailrace.{kind}")
        assert each["text/html"].startswith("<div" if each is run else "<table>")
        assert "<b>" not in each["text/html"]
    assert notebook.text("objects", "stdout") == "True\n"


@pytest.mark.slow
def test_the_program_is_the_notebook(notebook: Notebook) -> None:
    tags = named(notebook.uri, "<b>base</b>").tags
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == (str(notebook.path), "NOTEBOOK")
    assert tags["tailrace.command"] == str(notebook.path)
    assert {session.info.program for session in notebook.sessions} == {"digits.ipynb"}


@pytest.mark.slow
def test_what_was_logged_in_cells_is_there(notebook: Notebook) -> None:
    store = named(notebook.uri, "<b>base</b>")
    assert store.status == "FINISHED"
    assert store.params == {"lr": "0.1"}
    assert store.history("accuracy") == [(1, 0.5), (1, 0.6)]


LAUNCHER = "/venv/lib/python3/site-packages/ipykernel_launcher.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "kernel", "namespace", "environ", "expected"),
    [
        (LAUNCHER, True, {}, {}, ("notebook", None)),
        (LAUNCHER, True, {}, {"JPY_SESSION_NAME": "/lab/a.ipynb"}, ("a.ipynb", "/lab/a.ipynb")),
        (LAUNCHER, True, {}, {"JPY_SESSION_NAME": "not/here.ipynb"}, ("here.ipynb", None)),
        (LAUNCHER, True, {"__vsc_ipynb_file__": "/vs/b.ipynb"}, {"JPY_SESSION_NAME": "/c"}, ("b.ipynb", "/vs/b.ipynb")),
        (LAUNCHER, False, {}, {"JPY_SESSION_NAME": "/lab/a.ipynb"}, ("a.ipynb", "/lab/a.ipynb")),  # a spawned child
        ("/usr/lib/colab_kernel_launcher.py", True, {}, {"COLAB_RELEASE_TAG": "1"}, ("notebook", None)),
        ("/venv/site-packages/ipykernel/__main__.py", True, {}, {}, ("notebook", None)),
        ("-c", True, {}, {}, ("notebook", None)),
        ("", True, {}, {}, ("notebook", None)),
        ("-c", False, {}, {"JPY_SESSION_NAME": "/lab/a.ipynb"}, ("python", None)),
        ("/lab/train.py", True, {}, {"JPY_SESSION_NAME": "/lab/a.ipynb"}, ("train.py", "/lab/train.py")),  # %run
        ("/lab/train.py", False, {}, {"JPY_SESSION_NAME": "/lab/a.ipynb"}, ("train.py", "/lab/train.py")),  # !python
    ],
)
def test_a_program_is_named_after_its_file_wherever_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
    argument: str,
    kernel: bool,
    namespace: dict[str, str],
    environ: dict[str, str],
    expected: tuple[str, str | None],
) -> None:
    shell = types.SimpleNamespace(kernel=object() if kernel else None)
    for name in ("JPY_SESSION_NAME", "IPYNB_FILE", "__vsc_ipynb_file__"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", [argument])
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(**namespace))  # type: ignore[arg-type]
    assert (program_name(), program_file()) == expected
    assert in_notebook() == expected[0].endswith((".ipynb", "notebook"))
