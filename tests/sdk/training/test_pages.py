"""The scripts of the pages about estimators and evaluation run as they stand there, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from helpers.sdk_tools import Store
from tailrace import Tracker

DOCS = Path(__file__).parents[3] / "docs"
SMALLER = {'"n_trials": 30': '"n_trials": 2', "n_estimators=50": "n_estimators=5", "digits@champion": "digits/1"}


@pytest.mark.services
@pytest.mark.skipif(not DOCS.exists(), reason="the tests run outside of the source tree")
def test_the_scripts_of_the_pages_run_as_they_stand(
    shared: tuple[Tracker, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker, uri = shared
    for module in ("estimators.fitting", "evaluation.evaluator"):
        monkeypatch.setattr(f"tailrace.training.{module}.default_tracker", lambda: tracker)
    pages = [(DOCS / name).read_text(encoding="utf-8") for name in ("estimators.md", "evaluation.md")]
    names: dict[str, object] = {}
    for page in pages:
        for block in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
            code = block
            for written, smaller in SMALLER.items():
                code = code.replace(written, smaller)
            exec(compile(code, "page", "exec"), names)
    printed = capsys.readouterr().out
    assert ": better" in printed or ": worse" in printed
    version = MlflowClient(uri).get_model_version("digits", "1")
    assert Store(uri, version.run_id).status == "FINISHED"
