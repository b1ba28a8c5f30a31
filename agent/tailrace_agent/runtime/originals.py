"""The standard library as it was before gevent has replaced parts of it (`gevent.monkey.patch_all`).

A thread that sleeps in the kernel must be one of the system's: as a greenlet it would stop the whole program.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["original", "start_thread"]


def original(module: str, name: str) -> Any:
    """An attribute of a module of the standard library, as it was before gevent."""
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched(module):
        return monkey.get_original(module, name)
    return getattr(sys.modules.get(module) or __import__(module), name)


def start_thread(target: Callable[[], None], name: str) -> None:
    """Runs a function in a daemon thread of the system.

    Raises:
        RuntimeError: No thread can be had.
    """
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        monkey.get_original("_thread", "start_new_thread")(target, ())  # gevent has replaced what `Thread.start` calls
    else:
        threading.Thread(target=target, name=name, daemon=True).start()
