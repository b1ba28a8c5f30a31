"""Params: any nesting, any number, any length, and what a changed one costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from omegaconf import OmegaConf

from helpers.sdk_tools import Store, said
from tailrace import CallError, Tracker
from tailrace_agent.mlflow.names import stored_name


@dataclasses.dataclass
class Optimizer:
    name: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)


def test_params_of_any_nesting_are_flattened(sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    with sdk.start_run(params={"seed": 1}) as run:
        sdk.log_params({"model": {"layers": {"n": 2}, "act": "relu"}, "optimizer": Optimizer(), "none": None})
        assert sdk.log_param("lr", 0.1) == 0.1
        assert sdk.log_param("deep", {"a": {"b": 1}}) == {"a": {"b": 1}}
        sdk.log_params({"a.b": 1, "a": {"b": 2}})
        odd: Any = {5: "five", ("x",): [1, 2], "\udc80".encode("utf-8", "surrogateescape").decode("latin-1"): 1}
        sdk.log_params(odd)
    assert Store(sqlite_uri, run).params == {
        "seed": "1",
        "model.layers.n": "2",
        "model.act": "relu",
        "optimizer.name": "adam",
        "optimizer.betas": "(0.9, 0.999)",
        "none": "None",
        "lr": "0.1",
        "deep.a.b": "1",
        "a.b": "1",
        "5": "five",
        stored_name("('x',)"): "[1, 2]",  # MLflow takes neither ('x',) nor a control character as a name
        stored_name([*odd][-1]): "1",
    }
    assert run.ledger().of("param").dead == 0
    assert "'a.b' comes up twice" in caplog.text


def test_hundreds_of_params_and_one_that_is_too_long_arrive(sdk: Tracker, sqlite_uri: str) -> None:
    long = "".join(f"[{n}]" for n in range(3000))
    with sdk.start_run() as run:
        sdk.log_params({**{f"p{n:03}": n for n in range(700)}, "long": long, "last": "last"})
        sdk.set_tag("long", long)
        ledger = sdk.flush()
    assert ledger.of("param").delivered == 702
    assert ledger.of("artifact").delivered == 2
    assert 8 <= ledger.requests <= 12
    store = Store(sqlite_uri, run)
    assert len(store.params) == 702
    assert (store.params["p000"], store.params["p699"], store.params["last"]) == ("0", "699", "last")
    for kind, value, limit in (("param", store.params["long"], 6000), ("tag", store.tags["long"], 8000)):
        path = f"tailrace/{kind}s/long.txt"
        assert len(value) <= limit
        assert value.startswith(long[:5000])
        assert path in value
        assert Path(store.client.download_artifacts(store.run_id, path)).read_text() == long


@pytest.mark.parametrize("name", ["lr", "opt: lr", "lr was not logged"])  # the words of a message, in a name
def test_a_changed_param_is_a_dead_letter_with_one_warning_and_costs_nothing_else(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with sdk.start_run() as run:
        sdk.log_params({name: 0.1, "kept": 1})
        sdk.log_param(name, 0.1)  # the same again is no change
        sdk.flush()
        sdk.log_params({name: 0.2, "beside": 2})
        sdk.log(loss=1.0)
        sdk.log_param("after", 3)
        ledger = sdk.flush()
    store = Store(sqlite_uri, run)
    assert store.params == {name: "0.1", "kept": "1", "beside": "2", "after": "3"}
    assert store.history("loss") == [(0, 1.0)]
    counts = ledger.of("param")
    assert (counts.accepted, counts.delivered, counts.dead) == (6, 5, 1)
    about = [record.getMessage() for record in caplog.records if repr(name) in record.getMessage()]
    assert len(about) == 1, about
    assert "'0.1'" in about[0]
    assert "'0.2'" in about[0]


def test_a_param_changed_before_the_first_was_delivered_keeps_its_first_value(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        for value in (1, 1, 2, 3, 1):
            sdk.log_param("p", value)
        sdk.log_param("q", 1)
        ledger = sdk.flush().of("param")
    assert Store(sqlite_uri, run).params == {"p": "1", "q": "1"}
    assert (ledger.accepted, ledger.delivered, ledger.dead) == (6, 4, 2)


def test_a_param_changed_in_a_resumed_run_is_found_by_mlflow_and_told_once(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = MlflowClient(sqlite_uri)
    run_id = client.create_run("0").info.run_id
    client.log_param(run_id, "lr", "0.1")
    with sdk.start_run(run_id=run_id):
        sdk.log_params({"lr": 0.2, "beside": 2})
        ledger = sdk.flush().of("param")
    assert Store(sqlite_uri, run_id).params == {"lr": "0.1", "beside": "2"}
    assert (ledger.dead, ledger.delivered) == (1, 1)
    about = said(caplog)
    assert len(about) == 1, about
    assert "'lr'" in about[0]


def test_params_that_are_no_mapping_stop_nobody_and_raise_under_strict(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    not_a_mapping: Any = [("lr", 0.1)]
    with sdk.start_run(params=not_a_mapping) as run:
        sdk.log_params(not_a_mapping)
        sdk.log_param("p", 1)
    assert Store(sqlite_uri, run).params == {"p": "1"}
    assert run.ledger().of("param").dropped == {"params are no mapping": 2}
    assert len(said(caplog)) == 1
    assert "params must be a mapping, not list" in caplog.text
    with sdk.start_run(strict=True), pytest.raises(CallError, match="must be a mapping, not list"):
        sdk.log_params(not_a_mapping)


class Unwilling:
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Model(pydantic.BaseModel, arbitrary_types_allowed=True):
    layers: int = 2
    token: pydantic.SecretStr = pydantic.SecretStr("hunter2")
    broken: Unwilling = Unwilling()


def test_what_cannot_be_read_of_params_is_counted_and_named_once_and_the_rest_is_logged(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = OmegaConf.create({"a": 1, "b": "???", "c": {"d": "${nope}", "e": 2}})
    with sdk.start_run(params=config) as run:
        sdk.log_params(config)
        sdk.log_params(Model())
        sdk.log_param("model", Model())
        sdk.log_param("alone", Unwilling())
        sdk.log(loss=1.0)
        ledger = sdk.flush()
    store = Store(sqlite_uri, run)
    assert store.params == {
        "a": "1",
        "c.e": "2",
        "layers": "2",
        "token": "**********",
        "model.layers": "2",
        "model.token": "**********",
    }
    assert store.history("loss") == [(0, 1.0)]
    counts = ledger.of("param")
    assert counts.dropped == {"could not be read": 7}
    assert (counts.accepted, counts.delivered, counts.pending, counts.dead) == (15, 8, 0, 0)
    assert [line.removeprefix("tailrace: ") for line in said(caplog)] == [
        "params 'b' and 'c.d' could not be read; 'b': MissingMandatoryValue: Missing mandatory value: b",
        "param 'broken' could not be read: RuntimeError: no words",
        "param 'model.broken' could not be read: RuntimeError: no words",
        "param 'alone' could not be read: RuntimeError: no words",
    ]


def test_a_config_lacks_what_cannot_be_read_as_params_and_as_a_file(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"model": Model(), "models": [Model()], "lr": 0.1}
    with sdk.start_run() as run:
        sdk.log_config(config)
        ledger = sdk.flush()
    with sdk.start_run(log_params=False) as without:
        sdk.log_config(config, "config.yaml")
    told = "params 'model.broken' and 'models[0].broken' could not be read; 'model.broken': RuntimeError: no words"
    assert said(caplog) == [f"tailrace: {told}"] * 2
    assert ledger.of("param").dropped == {"could not be read": 2}
    assert without.ledger().of("param").accepted == 0
    for store, file in ((Store(sqlite_uri, run), "config/config.yaml"), (Store(sqlite_uri, without), "config.yaml")):
        text = Path(store.client.download_artifacts(store.run_id, file)).read_text()
        read = {"layers": 2, "token": "**********"}
        assert yaml.safe_load(text) == {"model": read, "models": [read], "lr": 0.1}


def test_under_strict_what_cannot_be_read_is_an_error_after_the_rest_was_logged(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run(strict=True) as run:
        with pytest.raises(CallError, match="param 'b' could not be read: RuntimeError: no words"):
            sdk.log_params({"a": 1, "b": Unwilling(), "c": 3})
        with pytest.raises(CallError, match="'x' could not be read"):
            sdk.log_config({"x": Unwilling(), "y": 1})
    store = Store(sqlite_uri, run)
    assert store.params == {"a": "1", "c": "3", "y": "1"}
    assert store.artifacts() == ["config/config.yaml"]


def test_under_strict_a_param_that_changes_is_mlflows_error_after_the_rest_was_logged(
    sdk: Tracker, sqlite_uri: str
) -> None:
    with sdk.start_run(strict=True) as run:
        sdk.log_params({"lr": 0.1})
        with pytest.raises(MlflowException, match=r"Changing param values is not allowed. Param with key='lr' was"):
            sdk.log_params({"lr": 0.2, "beside": 2})
        ledger = sdk.flush().of("param")
    assert Store(sqlite_uri, run).params == {"lr": "0.1", "beside": "2"}
    assert (ledger.accepted, ledger.delivered, ledger.dead) == (3, 2, 1)


def test_with_tracking_off_what_cannot_be_read_is_left_out_of_the_report(
    sdk: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sdk.start_run(agent="off", reports_dir=str(tmp_path / "reports")):
        sdk.log_params({"model": Model(), "lr": 0.1})
    assert yaml.safe_load((tmp_path / "reports/config.yaml").read_text()) == {
        "model": {"layers": 2, "token": "**********"},
        "lr": 0.1,
    }
    assert "param 'model.broken' could not be read" in caplog.text
