"""Where figures begin: matplotlib, if it is installed, without its global state."""

from __future__ import annotations

from typing import Any

from tailrace.training.runs.run_log import warn

__all__ = ["new_figure"]

_warned = False


def new_figure(width: float, height: float) -> Any:
    """An empty figure of that size in inches; None, with one warning, where matplotlib is not installed."""
    global _warned
    try:
        from matplotlib.figure import Figure
    except ImportError:
        if not _warned:
            _warned = True
            warn("no figures are drawn: matplotlib is not installed")
        return None
    return Figure(figsize=(width, height))
