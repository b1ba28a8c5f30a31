"""Names that MLflow refuses, the whole way: stored under clean ones, found under either, and the ledger adds up."""

from __future__ import annotations

import pytest

from helpers.commands import tailrace
from helpers.sdk_tools import Store, tracking
from tailrace import NotFound

LONG = "deep/" * 60 + "name"


def test_what_a_trainer_logs_is_there_under_either_name(store_uri: str) -> None:
    with tracking(store_uri, experiment_name="clean names") as sdk:
        with sdk.start_run(run_name="titan", params={"lr(initial)": 0.1, LONG: 1}, tags={"who(me)": "x"}) as run:
            for step in range(3):
                sdk.log({"throughput(tps)": 100.0 + step, "mfu(%)": 40.0, "loss": 1.0, "odd!": 2.0}, step=step)
            sdk.set_tag("phase!", "end")
        ledger = run.ledger()
        assert (ledger.of("metric").delivered, ledger.dead, ledger.settled) == (12, 0, True)
        found = Store(store_uri, run)
        assert found.history("throughput__tps") == [(step, 100.0 + step) for step in range(3)]
        assert found.params["lr__initial"] == "0.1"
        assert found.tags["who__me"] == "x"
        named = {key.removeprefix("tailrace.name."): text for key, text in found.tags.items() if "tailrace.name" in key}
        assert {"throughput(tps)", "mfu(%)", "odd!", "lr(initial)", "phase!", "who(me)", LONG} == set(named.values())
        assert named["throughput__tps"] == "throughput(tps)"
        for name in ("throughput(tps)", "throughput__tps"):
            assert list(sdk.metric_history("titan", name)["value"]) == [100.0, 101.0, 102.0]
            assert sdk.best_run(name, "max").run_id == run.run_id
            assert len(sdk.search_runs(filter_string=f"metrics.{name} > 101", output_format="list")) == 1
            assert sdk.search_runs(order_by=[f"metrics.{name} DESC"], output_format="list")[0].run_id == run.run_id
            assert sdk.compare_runs(["titan"], [name])["metrics.throughput__tps"].item() == 102.0
        with pytest.raises(NotFound, match="no metric fits"):
            sdk.metric_history("titan", "throughput(x)")
    verified = tailrace("verify", run.run_id, "--tracking-uri", store_uri)
    assert verified.exit_code == 0, verified.output
    assert "equal. 12 points" in verified.output
