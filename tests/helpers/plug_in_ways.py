"""The same program with the store plug-in and without it, each against a database of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from helpers.databases import copy_database
from helpers.sdk_tools import forget, script

__all__ = ["plain_and_installed"]


def plain_and_installed(code: str, template: Path, tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Runs code in which `{line}` is nothing, and then the plug-in's one line: the store, and the lines printed."""
    for name, line in (("plain", ""), ("installed", "import tailrace; tailrace.install()")):
        directory = tmp_path / name
        directory.mkdir()
        uri = f"sqlite:///{copy_database(template, directory)}"
        printed = script(directory, code.format(line=line), MLFLOW_TRACKING_URI=uri).stdout.splitlines()
        forget(directory)
        yield uri, printed
