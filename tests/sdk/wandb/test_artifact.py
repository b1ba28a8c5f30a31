"""Files under one name."""

from __future__ import annotations

from pathlib import Path

from helpers.wandb_tools import stored
from tailrace import wandb


def test_a_directory_a_table_and_a_reference_are_kept(store: str, tmp_path: Path) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "a.txt").write_text("a")
    (tmp_path / "data" / "sub" / "b.txt").write_text("b")
    run = wandb.init(project="artifacts")
    run.log_artifact("data", name="set", type="dataset")
    artifact = wandb.Artifact("mixed", type="dataset")
    artifact.add(wandb.Table(columns=["x"], data=[[1]]), "rows")
    artifact.add_reference("s3://bucket/key")
    artifact.add_dir("data", name="under")
    run.log_artifact(artifact).wait()
    run.log_model("data/a.txt", "weights")
    assert stored(store, run).artifacts() == [
        "artifacts/mixed/artifact.json",
        "artifacts/mixed/rows.table.json",
        "artifacts/mixed/under/a.txt",
        "artifacts/mixed/under/sub/b.txt",
        "artifacts/set/a.txt",
        "artifacts/set/artifact.json",
        "artifacts/set/sub/b.txt",
        "artifacts/weights/a.txt",
        "artifacts/weights/artifact.json",
    ]


def test_a_name_that_leads_elsewhere_is_not_taken(warned: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    artifact = wandb.Artifact("one")
    artifact.add_file("a.txt", name="../outside")
    artifact.add("a text", "b")
    assert any("'../outside' is no name in an artifact" in text for text in warned)
    assert any("tables and files" in text for text in warned)
    artifact.add_file("a.txt")
    assert artifact._files.keys() == {"a.txt"}
