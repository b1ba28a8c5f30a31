"""A run's configuration: by item and attribute, and what MLflow's params allow of its changes."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.wandb_tools import stored
from tailrace import wandb


def test_a_config_that_changes(store: str, warned: list[str]) -> None:
    run = wandb.init(project="changing", config={"lr": 0.1})
    run.config.update({"lr": 0.2})
    assert run.config.lr == 0.1
    assert "allow_val_change" in warned[-1]
    run.config.update({"lr": 0.2}, allow_val_change=True)
    run.config.setdefaults({"lr": 0.3, "new": 1})
    assert run.config.as_dict() == {"lr": 0.2, "new": 1}
    found = stored(store, run)
    assert found.params == {"lr": "0.1", "new": "1"}
    assert found.tags["config.lr"] == "0.2"


def test_what_was_set_before_init_is_taken_along_and_files_are_read(store: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"a": 1, "b": 2}))
    wandb.config.early = True
    run = wandb.init(config="c.json", config_exclude_keys=["b"])
    assert run.config.as_dict() == {"early": True, "a": 1}
