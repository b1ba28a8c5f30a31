"""Imports MLflow without pandas and what comes with it: a third of the agent's memory, and a quarter of its start.

MLflow's stores need none of them, and MLflow itself runs without them: that is what `mlflow-skinny` is. Here they are
missing only while MLflow is being imported; whoever imports them later gets them.

Nor does the garbage collector go through what is being imported again and again, which is a fifth of the rest; nor
later through what stays for good.

Only for a process of our own: in a training process, somebody else's import could fall into that moment.
"""

from __future__ import annotations

import gc
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Final

__all__ = ["import_lean", "uncollected"]

_LEFT_OUT: Final = ("numpy", "pandas", "pyarrow", "scipy")
_EXTENDABLE: Final = (
    "mlflow.artifact_repository",
    "mlflow.request_auth_provider",
    "mlflow.request_header_provider",
    "mlflow.tracking_store",
)
"""Plug-ins that MLflow loads while it is imported; they may need what is left out."""

_lock = threading.Lock()


def import_lean() -> None:
    """Imports what `open_sink` needs, if it can be done this way; if not, nothing is changed, and nothing raised."""
    with _lock:
        if "mlflow" in sys.modules or any(entry_points(group=group) for group in _EXTENDABLE):
            return
        absent = [name for name in _LEFT_OUT if name not in sys.modules]
        sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: "not to be found", to `import`
        try:
            with uncollected():
                importlib.import_module("tailrace_agent.mlflow.stores")
        except ImportError:  # a version that cannot do without: it is imported whole when it is needed
            return
        finally:
            for name in absent:
                del sys.modules[name]


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is looked for meanwhile, and none of what is there afterwards ever counts as garbage."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
