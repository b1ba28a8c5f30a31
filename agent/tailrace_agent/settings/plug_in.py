"""The store plug-in of a program, as the environment passes it on to the processes below."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["BACKGROUND_ARTIFACTS", "INSTALLED", "OFFLINE", "installed", "is_installed", "wants"]

INSTALLED: Final = "TAILRACE_INSTALLED"
"""The variable: MLflow logs through tailrace in this process and in those that it starts."""
OFFLINE: Final = "offline"
BACKGROUND_ARTIFACTS: Final = "background_artifacts"
"""What `tailrace.install` may be given."""


def installed(**options: bool) -> str:
    """The variable's value.

    Args:
        **options: Which ones are wanted.

    Example:
        >>> installed(offline=True, background_artifacts=False)
        'true,offline'
    """
    return ",".join(["true", *(name for name, wanted in options.items() if wanted)])


def is_installed() -> bool:
    """Whether this process, or one that it comes from, has installed the plug-in."""
    return bool(os.environ.get(INSTALLED))


def wants(option: str) -> bool:
    """Whether an option is wanted in this process."""
    return option in os.environ.get(INSTALLED, "").split(",")
