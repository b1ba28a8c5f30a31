"""Mistakes of a call as `strict=True` raises them: where MLflow raises, and as what it raises.

What was written for MLflow (`except mlflow.exceptions.MlflowException`, `pytest.raises(..., match=...)`) is to find the
same. So MLflow is loaded before such an error is made: in a program that has only `import tailrace as mlflow`, the name
in its `except` is looked up after that.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, TypeVar

from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    from tailrace._log.faults import Fault

__all__ = ["in_mlflows_words", "mistake"]

E = TypeVar("E", bound=CallError)


def mistake(text: str, kind: type[E] = CallError) -> E:  # type: ignore[assignment]
    """An error to raise: of MLflow's class as well.

    Args:
        text: The message.
        kind: Its class.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("mlflow.exceptions")
    return kind(text)


def in_mlflows_words(fault: Fault) -> str:
    """A fault, with what MLflow says of a metric that is no number."""
    if fault.reason != "value is no number" or fault.text.endswith(", not str"):  # which is said of a key
        return fault.text
    return f"{fault.text}. Please specify value as a valid double (64-bit floating point)"
