"""Databases of MLflow's: a copy of one that was made before."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

__all__ = ["copy_database"]


def copy_database(template: Path, directory: Path, artifacts: str | None = None) -> Path:
    """Copies a template into a directory, with artifacts below it, or where they are said to be."""
    path = directory / "mlflow.db"
    shutil.copyfile(template, path)
    connection = sqlite3.connect(path)
    with connection:
        # The default experiment remembers the directory in which the template was made.
        connection.execute("UPDATE experiments SET artifact_location = ?", (artifacts or f"{directory}/mlruns/0",))
    connection.close()
    return path
