"""What MLflow has an error for is MLflow's error as well, in a program that has MLflow."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
from mlflow.exceptions import MlflowException

from tailrace._artifacts.captured import BadArtifactType
from tailrace_agent.errors import (
    CallError,
    NotFound,
    Refused,
    RunGone,
    SettingsError,
    StoreAbsent,
    TailraceError,
    Unavailable,
)

ALONE = """
import sys
from tailrace_agent.errors import CallError, TailraceError

error = CallError("step is no integer")
assert type(error).__mro__ == (CallError, TailraceError, Exception, BaseException, object)
assert not any(name.startswith("mlflow") for name in sys.modules)
import mlflow.exceptions

assert isinstance(CallError("step is no integer"), mlflow.exceptions.MlflowException)
"""


def test_a_mistake_is_caught_as_mlflows_and_as_tailraces() -> None:
    for kind in (MlflowException, CallError):
        with pytest.raises(kind, match="no number") as caught:
            raise CallError("no number")
        assert isinstance(caught.value, CallError)
        assert isinstance(caught.value, MlflowException)
        assert (caught.value.error_code, caught.value.get_http_status_code()) == ("INVALID_PARAMETER_VALUE", 400)
        assert repr(caught.value) == "CallError('no number')"
    assert not isinstance(SettingsError("x"), MlflowException)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CallError("x"), "INVALID_PARAMETER_VALUE"),
        (NotFound("x"), "RESOURCE_DOES_NOT_EXIST"),
        (RunGone("x"), "RESOURCE_DOES_NOT_EXIST"),
        (StoreAbsent("x"), "BAD_REQUEST"),
        (Refused("x", too_large=True), "BAD_REQUEST"),
        (Unavailable("x", 3.0, 503, away=True), "TEMPORARILY_UNAVAILABLE"),
        (BadArtifactType("x"), "INVALID_PARAMETER_VALUE"),
    ],
)
def test_each_says_what_is_wrong_by_mlflows_code_and_is_what_it_is_in_other_processes(
    error: TailraceError, code: str
) -> None:
    own = {key: value for key, value in vars(error).items() if key in ("retry_after", "answered", "away", "too_large")}
    for same in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert isinstance(same, MlflowException)
        assert type(same) is type(error)
        assert (str(same), same.message, same.error_code) == ("x", "x", code)
        assert {key: getattr(same, key) for key in own} == own


def test_a_program_without_mlflow_gets_no_import_of_it() -> None:
    subprocess.run([sys.executable, "-c", ALONE], check=True)
