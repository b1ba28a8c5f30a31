"""The scripts of the page about frameworks run as they stand there, each a program of its own."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import mlflow
import pytest

from helpers.sdk_tools import Store, forget, script

PAGE = Path(__file__).parents[3] / "docs" / "frameworks.md"
_SECTION = re.compile(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = [
    pytest.mark.skipif(not PAGE.exists(), reason="the tests run outside of the source tree"),
    pytest.mark.services,  # some import for ten seconds
    pytest.mark.timeout(300),
]
EXPECTED = {
    "Lightning": "train_loss",
    "Transformers": "loss",
    "Accelerate": "loss",
    "Keras": "batch/loss",
    "XGBoost": "train/logloss",
    "LightGBM": "training/binary_logloss",
    "CatBoost": "learn/Logloss",
    "scikit-learn": "cv/accuracy",
    "Optuna": "distance",
    "TensorBoard": "loss",
    "CLU": "loss",
}
"""A metric that each of them leaves."""


def scripts() -> dict[str, str]:
    return dict(_SECTION.findall(PAGE.read_text(encoding="utf-8"))) if PAGE.exists() else {}


def test_each_framework_has_a_script() -> None:
    assert set(scripts()) == set(EXPECTED)


@pytest.mark.parametrize("framework", EXPECTED)
def test_the_script_of_a_framework_leaves_its_run(framework: str, sqlite_uri: str, tmp_path: Path) -> None:
    needed = framework.lower().replace("scikit-learn", "sklearn")
    if needed not in ("tensorboard", "clu"):
        pytest.importorskip(needed)
    script(tmp_path, scripts()[framework], TAILRACE_TRACKING_URI=sqlite_uri, PYTHONPATH=os.pathsep.join(sys.path))
    forget(tmp_path)
    found = [Store(sqlite_uri, run.info.run_id) for run in mlflow.MlflowClient(sqlite_uri).search_runs(["0"])]
    assert len(found) == (3 if framework == "Optuna" else 1)
    for store in found:
        assert store.status == "FINISHED"
        assert len(store.history(EXPECTED[framework])) >= 3
