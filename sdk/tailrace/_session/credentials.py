"""Credentials that a program renews while it runs: they reach the agent, whose environment is that of its own start.

A thread looks at a handful of variables once a second, and only in programs that have one of them at all, or whose
agent has met a request for a login.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from tailrace_agent.runtime.originals import original, start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CredentialsWatch"]

_NAMES: Final = (
    "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_AWS_SIGV4",
    "DATABRICKS_HOST", "DATABRICKS_TOKEN", "DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_SECRET",
    "GOOGLE_APPLICATION_CREDENTIALS",
)  # fmt: skip
"""What MLflow and the clients of its artifact stores take credentials from."""
_EVERY: Final = 1.0  # seconds


class CredentialsWatch:
    """Looks whether credentials in the environment have changed.

    Args:
        changed: Called when they have, in a thread of its own.

    Thread safety: every method from any thread.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._known = _now()
        self._pid = 0
        if self._known:
            self.start()

    def start(self) -> None:
        """Begins to look, once in each process."""
        # By the process: a forked child inherits what is here, but no thread.
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        try:
            start_thread(self._watch, "tailrace-credentials")
        except RuntimeError:  # the interpreter is going down: nothing will change any more
            self._pid = 0

    def look(self) -> None:
        """Looks now."""
        now = _now()
        if now != self._known:
            try:
                self._changed()
            except OSError:  # no descriptor left, say: it is tried again at the next look
                return
            # Last: what was not passed on is still new at the next look.
            self._known = now

    def _watch(self) -> None:
        sleep = original("time", "sleep")
        while True:
            sleep(_EVERY)
            self.look()


def _now() -> dict[str, str]:
    # Values and not only names: tokens are renewed under the same name.
    return {name: value for name in _NAMES if (value := os.environ.get(name)) is not None}
