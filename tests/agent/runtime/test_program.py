"""What runs here is named for people: a script, a notebook, or `python`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tailrace_agent.runtime.program import arguments, in_notebook, notebook_shell, program_file, program_name

VARIABLES = ("__vsc_ipynb_file__", "IPYNB_FILE", "JPY_SESSION_NAME")


@pytest.fixture(autouse=True)
def _no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def in_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/lib/python3/site-packages/ipykernel_launcher.py", "-f", "kernel.json"])


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["train.py"], "train.py"),
        (["/lab/train.py", "--lr", "1"], "train.py"),
        (["-c"], "python"),
        (["-m"], "python"),
        ([""], "python"),
        ([], "python"),
    ],
)
def test_a_script_has_the_name_of_its_file(monkeypatch: pytest.MonkeyPatch, argv: list[str], name: str) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert program_name() == name
    assert not in_notebook()
    assert (program_file() is None) == (name == "python")


def test_the_file_of_a_script_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["below/train.py"])
    assert program_file() == str(tmp_path / "below" / "train.py")


@pytest.mark.parametrize("argv", [None, "train.py", ("train.py",)])
def test_a_program_that_embeds_python_may_have_no_arguments(monkeypatch: pytest.MonkeyPatch, argv: Any) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert arguments() == []
    assert (program_name(), program_file()) == ("python", None)
    monkeypatch.delattr(sys, "argv")
    assert arguments() == []


def test_arguments_that_are_no_text_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", None, b"x", "--lr"])
    assert arguments() == ["train.py", "--lr"]


@pytest.mark.usefixtures("in_a_kernel")
def test_a_kernel_is_a_notebook_though_nobody_has_said_which() -> None:
    assert in_notebook()
    assert (program_name(), program_file()) == ("notebook", None)


@pytest.mark.usefixtures("in_a_kernel")
def test_a_notebook_has_the_name_that_its_server_has_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JPY_SESSION_NAME", "lab/train.ipynb")
    assert (program_name(), program_file()) == ("train.ipynb", None)  # relative to a server somewhere else
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "train.ipynb").touch()
    assert program_file() == str(tmp_path / "lab" / "train.ipynb")
    monkeypatch.setattr(sys.modules["__main__"], "__vsc_ipynb_file__", "/code/other.ipynb", raising=False)
    assert (program_name(), program_file()) == ("other.ipynb", "/code/other.ipynb")


@pytest.mark.usefixtures("in_a_kernel")
@pytest.mark.parametrize("known", ["", "/", 3])
def test_a_name_that_is_none_is_passed_over(monkeypatch: pytest.MonkeyPatch, known: Any) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__vsc_ipynb_file__", known, raising=False)
    assert program_name() == "notebook"


def test_a_shell_counts_where_a_kernel_runs_it_and_no_script_does(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys, "argv", [""])
    assert notebook_shell() is shell
    assert in_notebook()
    monkeypatch.setattr(sys, "argv", ["train.py"])  # by %run, in the kernel of a notebook
    assert not in_notebook()
    shell.kernel = None  # IPython in a terminal
    assert notebook_shell() is None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    assert notebook_shell() is None
