"""A notebook that is executed cell by cell, in a real kernel with a state directory of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

__all__ = ["Kernel", "kernel"]

_NAME = "tailrace-tests"


class _Remembering(NotebookClient):  # type: ignore[misc]
    """Remembers what came in, with what was replaced since."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[list[dict[str, Any]]] = []

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        self.seen[cell_index].append(msg)
        return super().process_message(msg, cell, cell_index)


class Kernel:
    """Executes the cells of one notebook.

    Attributes:
        client: nbclient's.
        messages: All that came in while a cell ran, cell by cell.
    """

    def __init__(self, client: _Remembering, cells: Mapping[str, str]) -> None:
        self.client = client
        self._names = list(cells)
        client.seen = [[] for _ in cells]

    def execute(self, name: str) -> None:
        """Runs one of them."""
        index = self._names.index(name)
        self.client.execute_cell(self.client.nb.cells[index], index)

    @property
    def outputs(self) -> dict[str, list[Any]]:
        """What is shown by now, cell by cell."""
        return {name: cell.outputs for name, cell in zip(self._names, self.client.nb.cells, strict=True)}

    def changes(self, name: str) -> list[dict[str, str]]:
        """What was shown, also in place of something, one after the other, while a cell ran."""
        seen = self.client.seen[self._names.index(name)]
        return [each["content"]["data"] for each in seen if each["msg_type"].endswith("display_data")]


@contextmanager
def kernel(directory: Path, uri: str, cells: Mapping[str, str], path: Path) -> Iterator[Kernel]:
    """A kernel for a notebook of these cells, which is written to a file.

    Args:
        directory: Where all of it is.
        uri: Where its runs go.
        cells: The cells' code, by name.
        path: The notebook's file.
    """
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
    (directory / "kernels" / _NAME).mkdir(parents=True)
    (directory / "kernels" / _NAME / "kernel.json").write_text(json.dumps({**spec, "display_name": _NAME}))
    written = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code.strip()) for code in cells.values()])
    nbformat.write(written, path)
    with pytest.MonkeyPatch.context() as environ:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "TAILRACE_"))]:
            if not name.startswith(("TAILRACE_TEST_", "TAILRACE_NATIVE")):
                environ.delenv(name)
        for name, value in {
            "IPYTHONDIR": directory / "ipython",
            "JPY_SESSION_NAME": path,
            "JUPYTER_PATH": directory,
            "JUPYTER_RUNTIME_DIR": directory / "runtime",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_TRACKING_URI": uri,
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "TAILRACE_DIR": directory / "tailrace",
            "TAILRACE_LINGER": "0",
        }.items():
            environ.setenv(name, str(value))
        client = _Remembering(
            written,
            kernel_name=_NAME,
            allow_errors=True,
            timeout=100,
            resources={"metadata": {"path": str(directory)}},
        )
        with client.setup_kernel():
            yield Kernel(client, cells)
