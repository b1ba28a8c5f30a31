"""Which of several processes that train together logs: the first; and whether there are several."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["is_alone", "is_first"]


def is_first() -> bool:
    """Whether this process is the first of those that train together, as torch.distributed or `torchrun` counts them.

    Example:
        >>> is_first()
        True
    """
    torch: Any = sys.modules.get("torch.distributed")
    if torch is not None and torch.is_available() and torch.is_initialized():
        return bool(torch.get_rank() == 0)
    # `torchrun`, Accelerate and Lightning set both.
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def is_alone() -> bool:
    """Whether no other process trains together with this one: what it decides by itself, it decides for all.

    Example:
        >>> is_alone()
        True
    """
    torch: Any = sys.modules.get("torch.distributed")
    if torch is not None and torch.is_available() and torch.is_initialized():
        return bool(torch.get_world_size() == 1)
    return os.environ.get("WORLD_SIZE", "1") == "1"
