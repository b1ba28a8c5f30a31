"""The bell: what the agent has new is noticed at once."""

from __future__ import annotations

import pytest

from helpers.sdk_tools import eventually, tracking


def test_a_name_that_mlflow_cannot_have_is_told_without_waiting_for_the_next_call(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with tracking(sqlite_uri) as sdk, sdk.start_run() as run:
        assert run.run_id
        sdk.log(step=0, **{"loss!": 0.5})
        eventually(lambda: "MLflow cannot have 'loss!'" in caplog.text, 5)
