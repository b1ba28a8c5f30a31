"""A mistake of the caller's is MLflow's error as well, in a program that has MLflow."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
from mlflow.exceptions import MlflowException

from tailrace_agent.errors import CallError, NotFound

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
    assert not isinstance(NotFound("x"), MlflowException)


def test_it_is_passed_between_processes() -> None:
    error = CallError("no number")
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert isinstance(same, CallError)
        assert str(same) == "no number"


def test_a_program_without_mlflow_gets_no_import_of_it() -> None:
    subprocess.run([sys.executable, "-c", ALONE], check=True)
