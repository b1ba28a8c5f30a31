"""A run's card and `%%track`, in a real kernel: one notebook is executed once, and the tests look at its cells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.notebooks import Kernel, kernel
from helpers.sdk_tools import Store, forget, named

pytestmark = pytest.mark.slow

CELLS = {
    "begin": "import time\nimport tailrace as sdk\n%load_ext tailrace",
    "tracked": """
%%track "base line" --param lr=0.1 --param depth={2 + 1} --tag team='the vision' --experiment magics
run = sdk.active_run()
began = time.monotonic()
step = 0
while 'svg' not in run._repr_html_() or step < 50:  # until its metrics are seen
    assert time.monotonic() - began < 60
    sdk.log(step=step, loss=1 / (step + 1), accuracy=1 - 1 / (step + 1))
    time.sleep(0.02)
    step += 1
time.sleep(2)
'the value'
""",
    "failed": "%%track failing\nsdk.log(loss=1.0)\nvalues = [1]\nvalues[5]",
    "after": "sdk.active_run() is None",
    "wrong": "%%track --param lr\nreached = True",
    "syntax": "%%track syntax\nfor",
    "open": "run = sdk.start_run(run_name='open')\nrun",
    "logs": "sdk.log(loss=2.0)\nsdk.log(loss=1.0)\nwhile not run.run_id:\n    pass\nsdk.flush().settled",
    "nested": """
with sdk.start_run(run_name='child', nested=True) as child:
    child.log(loss=3.0)
    display(child)
""",
    "end": "sdk.end_run()",
    "finished": "run",
    "unloaded": "%unload_ext tailrace\n'track' in get_ipython().magics_manager.magics['cell']",
}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Kernel]:
    directory = tmp_path_factory.mktemp("magics")
    (directory / "mlflow.db").write_bytes(sqlite_template.read_bytes())
    with kernel(directory, f"sqlite:///{directory}/mlflow.db", CELLS, directory / "magics.ipynb") as found:
        for name in CELLS:
            found.execute(name)
    found.uri = f"sqlite:///{directory}/mlflow.db"
    yield found
    forget(directory)


def cards(notebook: Kernel, cell: str) -> list[str]:
    return [
        each.data["text/html"] for each in notebook.outputs[cell] if "● " in each.get("data", {}).get("text/html", "")
    ]


def said(notebook: Kernel, cell: str) -> str:
    return "".join(each.get("text", "") for each in notebook.outputs[cell])


def stored(notebook: Kernel, name: str) -> Store:
    return named(notebook.uri, name)


def test_a_tracked_cell_is_a_run_that_ends_with_it(notebook: Kernel) -> None:
    run = stored(notebook, "base line")
    assert run.status == "FINISHED"
    assert run.params == {"lr": "0.1", "depth": "3"}
    assert run.tags["team"] == "the vision"
    assert len(run.history("loss")) >= 50
    (value,) = [each.data["text/plain"] for each in notebook.outputs["tracked"] if each.output_type == "execute_result"]
    assert value == "'the value'"


def test_its_card_goes_on_while_the_cell_runs(notebook: Kernel) -> None:
    states = [re.search(r"● (\w+)", each["text/html"]) for each in notebook.changes("tracked")]
    running = [each.group(1) for each in states if each].count("RUNNING")
    assert running >= 1
    assert any("<svg" in each["text/html"] for each in notebook.changes("tracked"))
    (card,) = cards(notebook, "tracked")
    assert "● FINISHED" in card
    assert "experiment magics" in card
    assert card.count("<svg") == 2
    assert "accuracy" in card


def test_what_a_card_shows_is_not_said_in_lines_as_well(notebook: Kernel) -> None:
    assert "points delivered with 2 params" in said(notebook, "tracked")
    assert "█" not in said(notebook, "tracked")


def test_a_cell_that_fails_fails_its_run_and_shows_the_error_as_usual(notebook: Kernel) -> None:
    run = stored(notebook, "failing")
    assert (run.status, run.tags["error.type"]) == ("FAILED", "IndexError")
    (error,) = [each for each in notebook.outputs["failed"] if each.output_type == "error"]
    assert (error.ename, error.evalue) == ("IndexError", "list index out of range")
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    assert "----> 3 values[5]" in trace
    assert "magics.py" not in trace
    (card,) = cards(notebook, "failed")
    assert "● FAILED" in card
    assert [each.data["text/plain"] for each in notebook.outputs["after"]] == ["True"]


def test_a_cell_that_cannot_be_run_begins_no_run(notebook: Kernel) -> None:
    (wrong,) = [each for each in notebook.outputs["wrong"] if each.output_type != "display_data"]
    assert "--param lr is not KEY=VALUE" in wrong.get("evalue", wrong.get("text", ""))
    (error,) = [each for each in notebook.outputs["syntax"] if each.output_type == "error"]
    assert error.ename == "SyntaxError"
    assert cards(notebook, "wrong") + cards(notebook, "syntax") == []


def test_a_run_that_goes_on_over_cells_is_shown_where_it_was_begun(notebook: Kernel) -> None:
    (card,) = cards(notebook, "open")
    assert "● FINISHED" in card
    assert notebook.changes("logs")
    assert cards(notebook, "logs") == []


def test_nested_and_finished_runs_have_cards(notebook: Kernel) -> None:
    (child,), (finished,) = cards(notebook, "nested"), cards(notebook, "finished")
    assert "nested in open" in child
    assert "● FINISHED" in child
    assert "loss" in finished
    assert ">1</td>" in finished


def test_the_extension_can_be_taken_away(notebook: Kernel) -> None:
    assert [each.data["text/plain"] for each in notebook.outputs["unloaded"]] == ["False"]
