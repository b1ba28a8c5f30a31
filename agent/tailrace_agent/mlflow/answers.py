"""Which answers of a server are MLflow's.

An answer counts when it is the JSON object that MLflow gives. An empty one, a page or a list is none: it comes from
somebody else, who has stored nothing.

Loading this module does not import MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

import requests

from tailrace_agent.mlflow.clocks import note_date
from tailrace_agent.mlflow.errors import attach
from tailrace_agent.mlflow.http_bounds import hold

__all__ = ["OK", "believing", "check_answer", "hold_answer", "json_object"]

OK: Final = 200
_ERROR_AT_MOST: Final = 8 << 20
"""Bytes of an answer that is no 200: of these only a message is read."""


def hold_answer(response: requests.Response, *, stream: bool) -> None:
    """Reads the body of an answer that was requested with `stream=True`; of a success only without `stream` here.

    Its date is noted, see `clocks`.

    Raises:
        Exception: As in `http_bounds.hold`.
    """
    note_date(response)
    if response.status_code != OK:
        hold(response, _ERROR_AT_MOST)
    elif not stream:
        hold(response)


@contextmanager
def believing(response: requests.Response) -> Iterator[None]:
    """While an answer is being read: what goes wrong then is the answer's fault."""
    try:
        yield
    except Exception as error:
        attach(error, response)
        raise


def json_object(response: requests.Response, path: str, verify: Callable[[requests.Response, str], object]) -> Any:
    """The JSON object that an answer is.

    Args:
        response: The answer, held.
        path: Of the request, for messages.
        verify: Raises what an answer means that is no success.

    Raises:
        Exception: It reports that something went wrong, or is none that MLflow gives. The response is attached to it.
    """
    with believing(response):
        if response.status_code != OK:
            verify(response, path)
        fields = json.loads(response.content)
        # The status once more: what other versions of MLflow's check let pass is no success.
        if not isinstance(fields, dict) or response.status_code != OK:
            raise ValueError(f"the answer to {path} is no JSON object")
    return fields


def check_answer(given: bool, known: Collection[str], fields: dict[str, Any], what: str, *, may_be_empty: bool) -> None:
    """Whether a JSON object is MLflow's answer: `{}` where it has no fields to fill, else at least one of its fields.

    Args:
        given: Whether it has one of the fields that are known.
        known: The fields that are known of this answer.
        fields: The object.
        what: The request, for the message.
        may_be_empty: Whether MLflow's server leaves out all of the fields that are known.

    Raises:
        ValueError: It is not: somebody else has answered. Fields that a later version of MLflow adds pass.
    """
    if not (given or ((may_be_empty or not known) and not fields)):
        raise ValueError(f"the answer is not that to {what}")
