"""Every block of Python in the README and the docs runs, as a whole, as it stands there.

A block is a program of its own. A page's blocks run in their order in one directory, in which `sqlite:///mlflow.db` is
a database of MLflow's. A block of another language whose first line is `# name.toml` is that file. What a page says
above a block, in a comment that readers do not see:

- `<!-- continues -->`: it goes on where the block before it ends;
- `<!-- ends by SIGKILL -->`: it kills itself, and what it has left is delivered before the next one;
- `<!-- run by tests/…py: why -->`: that test runs it;
- `<!-- not run: why -->`: it needs what is not there. There are few of them, and they are counted.

`<!-- python: run by tests/…py -->` says the same of all blocks of its page; `<!-- python: cells of one notebook -->`
says that they are that, with those in `ipython` among them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.notebooks import kernel
from helpers.sdk_tools import forget, script

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SMALLER = {
    '"n_trials": 30': '"n_trials": 2',
    "objective, 30": "objective, 6",
    "num_epochs=10": "num_epochs=2",
    "num_epochs=12": "num_epochs=3",
    "n_estimators=50": "n_estimators=5",
}
"""So that a page takes seconds."""

_BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CELLS = "cells of one notebook"
_PAGE = re.compile(r"^<!-- python: (.*) -->$", re.MULTILINE)

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the tests run outside of the source tree")


class Block(NamedTuple):
    page: Path
    said: str
    code: str

    def runs_here(self) -> bool:
        return not self.said.startswith(("run by ", "not run: ", _CELLS))


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    of_page = _PAGE.search(text)
    return [
        Block(page, said or (of_page[1] if of_page else ""), code)
        for said, language, code in _BLOCK.findall(text)
        if language in ("python", "ipython")
    ]


def _pages() -> list[Path]:
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


BLOCKS = [block for page in _pages() for block in blocks_of(page)]


def test_what_is_said_of_a_block_is_understood() -> None:
    known = re.compile(
        r"|continues|ends by SIGKILL|cells of one notebook|run by tests/[\w/]+\.py(::\w+)?(: .+)?|not run: .+"
    )
    assert [block.said for block in BLOCKS if not known.fullmatch(block.said)] == []


def test_blocks_that_are_run_elsewhere_name_a_test_that_reads_their_page() -> None:
    for block in BLOCKS:
        if named := re.match(r"run by (tests/[\w/]+\.py)", block.said):
            test = (ROOT / named[1]).read_text(encoding="utf-8")
            assert block.page.name in test or f'"{block.page.parent.name}"' in test, (block.page, named[1])


def test_few_blocks_are_not_run_at_all() -> None:
    assert len([block for block in BLOCKS if block.said.startswith("not run: ")]) <= 1
    assert len([block for block in BLOCKS if block.runs_here()]) >= 40


def programs(page: Path) -> list[Block]:
    """The programs of a page: a block with those before it that it goes on from."""
    made: list[Block] = []
    for block in blocks_of(page):
        code = made[-1].code + block.code if block.said == "continues" else block.code
        made.append(block._replace(code=code))
    return [block for block in made if block.runs_here()]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "page", [page for page in _pages() if programs(page)], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_the_blocks_of_a_page_run_as_they_stand(page: Path, sqlite_template: Path, tmp_path: Path) -> None:
    shutil.copy(sqlite_template, tmp_path / "mlflow.db")
    _write_files(page, tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    environ = {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": os.pathsep.join(sys.path), "MPLBACKEND": "Agg"}
    printed = ""
    for program in programs(page):
        code = program.code.replace("http://localhost:5000", uri)
        for written, smaller in SMALLER.items():
            code = code.replace(written, smaller)
        done = script(tmp_path, code, check=False, **environ)
        killed = program.said == "ends by SIGKILL"
        assert done.returncode == (-signal.SIGKILL if killed else 0), (code, done.stderr)
        assert "Traceback" not in done.stderr, (code, done.stderr)
        printed = done.stdout
        if killed:
            _deliver(tmp_path)
    if page.name == "quickstart.md":
        assert "KILLED 20000 points\n" in printed
        assert "disappeared without ending the run" in printed
    forget(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "page",
    [page for page in _pages() if any(block.said == _CELLS for block in blocks_of(page))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_the_blocks_of_a_page_on_notebooks_run_as_its_cells(page: Path, sqlite_template: Path, tmp_path: Path) -> None:
    shutil.copy(sqlite_template, tmp_path / "mlflow.db")
    cells = {str(number): block.code for number, block in enumerate(blocks_of(page))}
    with kernel(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", cells, tmp_path / "page.ipynb") as notebook:
        for cell in cells:
            notebook.execute(cell)
    shown = [output for outputs in notebook.outputs.values() for output in outputs]
    assert [output for output in shown if output.output_type == "error"] == []
    assert any("text/html" in output.get("data", {}) for output in shown), "a card"
    forget(tmp_path)


def _write_files(page: Path, directory: Path) -> None:
    for _, language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in ("toml", "yaml") and (named := re.match(r"# ([\w./-]+)\n", text)):
            path = directory / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def _deliver(directory: Path) -> None:
    command = [sys.executable, "-c", "from tailrace_agent.cli import main; main()", "sync", "--wait"]
    environ = {**os.environ, "TAILRACE_DIR": str(directory / "tailrace"), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, cwd=directory, env=environ, check=True, timeout=100)
