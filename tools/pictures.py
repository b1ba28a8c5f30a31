"""Makes the pictures of the docs anew, by headless Chromium and from the terminal: `python tools/pictures.py [NAME…]`.

It needs chromium and chromedriver, and what the tests need (`make test` has installed it). Each picture is a function
below, named as its file; the programs that it shows are the blocks of the page that it is on.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "tests"))

from helpers.serving import serving  # noqa: E402 - after the path to it
from services.chromium import Browser, browser  # noqa: E402
from tailrace_agent.mlflow.links import run_page  # noqa: E402

# What is in the way of the charts.
_TIDY = """
    document.head.insertAdjacentHTML('beforeend', `<style>
        .modebar, [class*=assistant], [data-component-id*=assistant] { display: none !important }
    </style>`);
    document.querySelector('[data-component-id="mlflow.assistant.chat_panel.close"]')?.click();
    document.querySelector('[data-component-id="mlflow_header.toggle_sidebar_button"]')?.click();
"""
_DRAWN = "return document.querySelectorAll('.js-plotly-plot .scatterlayer .trace path').length >= "


def tutorial_run(directory: Path) -> None:
    """The first run of the tutorial, its charts in MLflow's UI."""
    with mlflow_ui(directory) as url:
        run_id, experiment = logged(directory, _block("quickstart.md", 0), url, "baseline")
        with browser(directory, width=1300, height=1120) as page:
            page.open(run_page(url, experiment, f"{run_id}/model-metrics"))
            page.wait(_DRAWN + "2", 120)
            page.run(_TIDY)
            _shot(page, "tutorial-run.png")


def notebook_card(directory: Path) -> None:
    """What `run` shows of itself in a notebook."""
    from helpers.notebooks import kernel

    cells = {"import": "import tailrace as sdk", "card": _block("notebooks.md", 1)}
    with kernel(directory, f"sqlite:///{directory}/mlflow.db", cells, directory / "page.ipynb") as notebook:
        for cell in cells:
            notebook.execute(cell)
        shown = [output.data.get("text/html", "") for output in notebook.outputs["card"] if "data" in output]
        html = next(text for text in shown if "● " in text)
    page_of_html(directory, html, "notebook-card.png", width=560, height=300)


def terminal_view(directory: Path) -> None:
    """`tailrace top` on a run of the tutorial's, as it is in a terminal of 110 columns."""
    subprocess.run(
        [sys.executable, "-c", _block("quickstart.md", 0)], cwd=directory, env=_environ(directory), check=True
    )
    terminal(directory, ["top", "--once", "--tracking-uri", f"sqlite:///{directory}/mlflow.db"], "top.svg")


PICTURES: dict[str, Callable[[Path], None]] = {
    "tutorial-run": tutorial_run,
    "notebook-card": notebook_card,
    "top": terminal_view,
}


# -- what they share ---------------------------------------------------------------------------------------------------


@contextmanager
def mlflow_ui(directory: Path) -> Iterator[str]:
    """The address of an MLflow server on a fresh database."""
    with serving(directory, "--backend-store-uri", f"sqlite:///{directory}/mlflow.db") as url:
        yield url


def logged(directory: Path, code: str, url: str, name: str) -> tuple[str, str]:
    """Runs a program of a page on a server; MLflow's ids of its run of this name, and of the experiment."""
    from mlflow import MlflowClient

    code = code.replace("sqlite:///mlflow.db", url)
    subprocess.run([sys.executable, "-c", code], cwd=directory, env=_environ(directory), check=True)
    client = MlflowClient(url)
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    (run, *_) = client.search_runs(everywhere, f"tags.`mlflow.runName` = '{name}'")
    return run.info.run_id, run.info.experiment_id


def page_of_html(directory: Path, html: str, picture: str, *, width: int, height: int) -> None:
    """A picture of HTML, on a white page."""
    path = directory / "page.html"
    path.write_text(f"<body style='font: 14px sans-serif; margin: 16px'>{html}</body>", encoding="utf-8")
    with browser(directory, width=width, height=height) as page:
        page.open(path.as_uri())
        _shot(page, picture)


def terminal(directory: Path, arguments: list[str], picture: str, columns: int = 110) -> None:
    """What a command of tailrace's prints, colours and all, as an SVG."""
    from rich.console import Console
    from rich.text import Text

    command = [sys.executable, "-c", "from tailrace_agent.cli import main; main()", *arguments]
    environ = {**_environ(directory), "FORCE_COLOR": "1", "COLUMNS": str(columns), "LINES": "32"}
    printed = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=True).stdout
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=columns, file=nowhere)
        console.print(Text.from_ansi(printed.replace(str(directory), "/home/ada").rstrip()))
        drawn = console.export_svg(title=f"tailrace {arguments[0]}")
    # The reader's own font: rich's would be loaded from elsewhere.
    (DOCS / picture).write_text(re.sub(r"@font-face {.*?}\n", "", drawn, flags=re.DOTALL), encoding="utf-8")
    print(f"docs/{picture}")


def _block(page: str, number: int) -> str:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[number]


def _environ(directory: Path) -> dict[str, str]:
    path = os.pathsep.join(sys.path)
    return {**os.environ, "TAILRACE_DIR": str(directory / "tailrace"), "PYTHONPATH": path}


def _shot(page: Browser, picture: str) -> None:
    page.screenshot(DOCS / picture)
    print(f"docs/{picture}")


def main() -> None:
    """Makes those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], metavar="NAME", help=", ".join(PICTURES))
    for name in parser.parse_args().names or PICTURES:
        with tempfile.TemporaryDirectory() as directory:
            PICTURES[name](Path(directory))


if __name__ == "__main__":
    main()
