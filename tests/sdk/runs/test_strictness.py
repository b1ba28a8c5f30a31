"""Mistakes as `strict=True` raises them."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.sdk_tools import script
from tailrace._artifacts.captured import BadArtifactType
from tailrace._log.faults import Fault
from tailrace._runs.strictness import in_mlflows_words, mistake

ALONE = """
import sys
import tailrace as mlflow

caught = []
with mlflow.start_run(agent="off", strict=True, log_metrics=True) as run:
    assert "mlflow" not in sys.modules
    try:
        run._core.fault("the mistake", once="it")
    except mlflow.exceptions.MlflowException as error:  # a name that is looked up when the error is there already
        caught.append(error.error_code)
print(caught)
"""


def test_a_mistake_has_its_own_class_and_mlflows() -> None:
    from mlflow.exceptions import MlflowException

    for kind in (MlflowException, TypeError, ValueError, BadArtifactType):
        with pytest.raises(kind, match="no image"):
            raise mistake("no image", BadArtifactType)


@pytest.mark.slow
def test_an_except_that_names_mlflows_class_by_tailrace_alone_finds_it(tmp_path: Path) -> None:
    assert script(tmp_path, ALONE).stdout == "['INVALID_PARAMETER_VALUE']\n"


def test_a_value_that_is_no_number_is_said_in_mlflows_words_and_a_key_that_is_no_text_is_not() -> None:
    value = Fault("metric 'a' was not logged: str is no number", "value is no number", 1)
    key = Fault("metric '1' was not logged: the key is int, not str", "value is no number", 1)
    step = Fault("step 'x' is no integer", "step is no integer", 1)
    assert in_mlflows_words(value).endswith("Please specify value as a valid double (64-bit floating point)")
    assert [in_mlflows_words(fault) for fault in (key, step)] == [key.text, step.text]
