"""Bars, on a real terminal and in a real kernel of a notebook."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tailrace.training.pytorch.bars import NotebookBar, is_terminal
from tailrace_agent.runtime.program import notebook_shell

TRAINS = """
import torch
from torch import nn
from helpers.training import ListTracker, classifier, loader
from tailrace.training import Trainer

def trainer(data, epochs=1):
    model = classifier()
    print("on stdout")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return Trainer(model, data, loader(16), optimizer, nn.CrossEntropyLoss(), "cpu", epochs, tracker=ListTracker())
"""


@pytest.mark.slow
def test_what_a_program_prints_into_a_file_stays_out_of_the_bar(tmp_path: Path) -> None:
    """stderr is a terminal, stdout is not: `python train.py > out.txt`."""
    script = TRAINS + (
        "class Loud(nn.CrossEntropyLoss):\n"
        "    def forward(self, outputs, targets):\n"
        "        print('a step')\n"
        "        return super().forward(outputs, targets)\n"
        "made = trainer(loader())\n"
        "made._recipe.__dict__['criterion'] = Loud()\n"
        "made.train()\n"
    )
    mine, terminal = pty.openpty()
    out = tmp_path / "out.txt"
    with out.open("wb") as file:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
        process = subprocess.Popen([sys.executable, "-c", script], stdout=file, stderr=terminal, env=env)
        os.close(terminal)
        shown = b""
        while True:
            try:
                read = os.read(mine, 65536)
            except OSError:  # the other end is closed
                break
            if not read:
                break
            shown += read
        assert process.wait(60) == 0, shown
    os.close(mine)
    assert out.read_text().splitlines() == ["on stdout", *["a step"] * 8]
    assert b"epoch 1/1" in shown
    assert b"a step" not in shown


@pytest.mark.slow
def test_in_a_notebook_it_is_one_place_that_stays_whatever_the_number_of_epochs(tmp_path: Path) -> None:
    broken = (
        "class Broken:\n"
        "    def __iter__(self):\n"
        "        yield from list(loader())[:5]\n"
        "        raise ValueError('damaged')"
    )
    cells = [TRAINS, "trainer(loader(), 3).train()['total_epochs']", f"{broken}\ntrainer(Broken()).train()"]
    outputs = _run(tmp_path, cells)
    (bar,) = [each for each in outputs[1] if each.output_type == "display_data"]
    assert bar.data["text/plain"].startswith("epoch 3/3  6/6  0:0")
    assert bar.data["text/html"].startswith('<progress value="6" max="6"></progress> <code>epoch 3/3  6/6  0:0')
    said = "".join(each.text for each in outputs[1] if each.output_type == "stream" and each.name == "stdout")
    assert [line.split("  ")[0] for line in said.splitlines()[1:]] == [f"tailrace: epoch {n}/3" for n in (1, 2, 3)]
    assert not [each for each in outputs[1] if each.get("name") == "stderr"]
    (bar,) = [each for each in outputs[2] if each.output_type == "display_data"]  # it is left where it broke
    assert bar.data["text/html"].startswith("<code>epoch 1/1  4  0:0")
    assert outputs[2][-1].ename == "ValueError"


def _run(folder: Path, cells: list[str]) -> list[list[Any]]:
    kernel = folder / "kernels" / "mine"
    kernel.mkdir(parents=True)
    started = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": started, "language": "python", "display_name": "mine"}))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    manager = AsyncKernelManager(
        kernel_name="mine", kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(kernel.parent)])
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        NotebookClient(notebook, km=manager, kernel_name="mine", timeout=120, allow_errors=True).execute()
    return [cell.outputs for cell in notebook.cells]


class Handle:
    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(data)


def test_a_bar_says_what_is_left_and_where_it_ended() -> None:
    bar, handle = NotebookBar(), Handle()
    bar._handle = handle
    bar.begin("epoch 2/3", 8)
    bar.update(4)
    bar.end(8)
    bar.end(8)  # once more, as when the training is closed after its last epoch
    texts = [each["text/plain"] for each in handle.shown]
    assert texts == ["epoch 2/3  0/8", "epoch 2/3  4/8  0:00 left", "epoch 2/3  8/8  0:00"]
    assert '<progress value="4" max="8">' in handle.shown[1]["text/html"]


def test_without_a_length_it_moves_until_it_ends() -> None:
    bar, handle = NotebookBar(), Handle()
    bar._handle = handle
    bar.begin("epoch 1/1", None)
    bar.update(1)
    bar.end(5)
    assert [each["text/html"] for each in handle.shown] == [
        "<progress></progress> <code>epoch 1/1  0</code>",
        "<progress></progress> <code>epoch 1/1  1</code>",
        "<code>epoch 1/1  5  0:00</code>",
    ]


def test_a_browser_that_is_gone_stops_nothing() -> None:
    class Gone:
        def update(self, data: Any, *, raw: bool) -> None:
            raise RuntimeError("no socket")

    bar = NotebookBar()
    bar._handle = Gone()
    bar.begin("epoch 1/1", 2)
    bar.end(2)


def test_only_a_terminal_is_one_and_this_is_no_notebook() -> None:
    closed = io.StringIO()
    closed.close()
    assert not any(map(is_terminal, (None, io.StringIO(), closed, object())))
    assert notebook_shell() is None
