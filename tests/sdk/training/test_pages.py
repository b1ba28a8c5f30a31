"""The scripts of the pages about training, estimators and evaluation run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import Store, forget, script
from tailrace import Tracker

DOCS = Path(__file__).parents[3] / "docs"
SMALLER = {'"n_trials": 30': '"n_trials": 2', "n_estimators=50": "n_estimators=5", "digits@champion": "digits/1"}


pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the tests run outside of the source tree")


def _scripts(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["training.md", "evaluation.md", "estimators.md", "search.md"])
def test_a_page_begins_with_a_script_of_ten_lines_and_the_picture_of_its_run(page: str) -> None:
    assert len([line for line in _scripts(page)[0].splitlines() if line]) <= 10
    _, _, after = (DOCS / page).read_text(encoding="utf-8").partition("\n```\n\n![")
    picture = re.match(r"[^\]]+\]\((\w+\.png)\)", after)
    assert picture is not None
    assert (DOCS / picture[1]).exists()


@pytest.mark.slow
def test_the_first_script_about_training_leaves_what_the_page_says(sqlite_uri: str, tmp_path: Path) -> None:
    code = _scripts("training.md")[0].replace("num_epochs=10", "num_epochs=2")
    done = script(tmp_path, code, TAILRACE_TRACKING_URI=sqlite_uri)
    assert float(done.stdout.split()[-1]) > 0
    forget(tmp_path)
    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    store = Store(sqlite_uri, run.info.run_id)
    assert [step for step, _ in store.history("epoch/val_accuracy")] == [1, 2]
    assert (store.status, store.run.data.metrics["final/total_epochs"]) == ("FINISHED", 2)


@pytest.mark.services
def test_the_scripts_of_the_pages_run_as_they_stand(
    shared: tuple[Tracker, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker, uri = shared
    for module in ("estimators.fitting", "evaluation.evaluator"):
        monkeypatch.setattr(f"tailrace.training.{module}.default_tracker", lambda: tracker)
    names: dict[str, object] = {}
    for page in ("estimators.md", "evaluation.md"):
        for block in _scripts(page):
            code = block
            for written, smaller in SMALLER.items():
                code = code.replace(written, smaller)
            exec(compile(code, "page", "exec"), names)
    printed = capsys.readouterr().out
    assert ": better" in printed or ": worse" in printed
    version = MlflowClient(uri).get_model_version("digits", "1")
    assert Store(uri, version.run_id).status == "FINISHED"
