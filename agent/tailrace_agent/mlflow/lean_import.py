"""Imports MLflow without pandas and what comes with it: a third of the agent's memory, and a quarter of its start.

MLflow's stores need none of them, and MLflow itself runs without them: that is what `mlflow-skinny` is. Here they are
missing only while MLflow is being imported; whoever imports them later gets them.

Nor does the garbage collector go through what is being imported again and again, which is a fifth of the rest; nor
later through what stays for good.

Only for a process of our own: in a training process, somebody else's import could fall into that moment.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tailrace_agent.mlflow.plug_ins import has_plug_ins
from tailrace_agent.runtime.left_out import left_out

__all__ = ["import_lean", "uncollected"]

_LEFT_OUT: Final = ("numpy", "pandas", "pyarrow", "scipy")

_lock = threading.Lock()


def import_lean() -> None:
    """Imports what `open_sink` needs, if it can be done this way; if not, nothing is changed, and nothing raised."""
    with _lock:
        # MLflow is there already, or a plug-in would miss for good what is left out while it loads.
        if "mlflow" in sys.modules or has_plug_ins():
            return
        # Suppressed: a version that cannot do without is imported whole when it is needed.
        with contextlib.suppress(ImportError), left_out(*_LEFT_OUT), uncollected():
            importlib.import_module("tailrace_agent.mlflow.stores")


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
        # Moves all that lives to a generation that no collection looks at: MLflow's modules stay until the end.
        gc.freeze()
        gc.enable()
