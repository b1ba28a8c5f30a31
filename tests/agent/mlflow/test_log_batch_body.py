"""The body of a `log_batch` request, as MLflow itself would send it."""

from __future__ import annotations

import json
import math

import pytest
from mlflow.entities import Metric

from tailrace_agent.ipc.records import Point
from tailrace_agent.mlflow.log_batch_body import batch_body


def test_the_short_way_sends_what_mlflow_would_send() -> None:
    from mlflow.entities import Param, RunTag
    from mlflow.protos.service_pb2 import LogBatch
    from mlflow.utils.proto_json_utils import message_to_json

    points = [Point("a", value, 1, -3) for value in (math.nan, math.inf, -math.inf, 1e300, 1.0, -0.0, 2**53 + 2.0)]
    theirs = LogBatch(
        run_id="r",
        metrics=[Metric(*point).to_proto() for point in points],
        params=[Param("p", "ü\x00").to_proto()],
        tags=[RunTag("t", "").to_proto()],
    )
    assert json.loads(batch_body("r", points, [("p", "ü\x00")], [("t", "")])) == json.loads(message_to_json(theirs))
    assert json.loads(batch_body("r", points)) == json.loads(
        message_to_json(LogBatch(run_id="r", metrics=[Metric(*point).to_proto() for point in points]))
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [(math.nan, b'"NaN"'), (math.inf, b'"Infinity"'), (-math.inf, b'"-Infinity"'), (1e300, b"1e300"), (0.1, b"0.1")],
)
def test_a_number_that_json_does_not_have_is_a_word(value: float, written: bytes) -> None:
    assert b'"value":' + written in batch_body("r", [Point("a", value, 1, 2)])


def test_what_is_not_there_is_left_out() -> None:
    assert json.loads(batch_body("r")) == {"run_id": "r"}
    assert json.loads(batch_body("r", tags=[("t", "1")])) == {"run_id": "r", "tags": [{"key": "t", "value": "1"}]}
