"""Modules that are not to be found while another one, which can do without them, is imported.

Only for a process of our own: in a training process, somebody else's import could fall into that moment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["left_out"]


@contextmanager
def left_out(*names: str) -> Iterator[None]:
    """Within it these modules cannot be imported, unless they are loaded already; afterwards they can.

    Example:
        >>> with left_out("antigravity"):
        ...     import antigravity
        Traceback (most recent call last):
            ...
        ModuleNotFoundError: import of antigravity halted; None in sys.modules
    """
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: "not to be found", to `import`
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]  # None must not stay: every later import of it would fail
