"""Every error that tailrace raises or hands from layer to layer.

```
TailraceError
├── SettingsError        a setting is wrong: names the key, the value, what is allowed
├── StateDirError        no directory to keep state in
├── StoreRefused         this MLflow cannot use the tracking URI at all
├── NotFound             no run (experiment, model) fits what was requested, or several do
├── ArchiveError         a file is no archive of runs, or it is damaged
├── CallError            a programmer's error in one call (raised under strict=True only)
├── SessionError         a session that cannot be opened, or is gone
└── SinkError            what went wrong while talking to MLflow
    ├── Unavailable      may work later: wait and try again
    ├── Refused          will never work as sent: isolate what is at fault
    └── RunGone          the run was deleted: nothing more can be written to it
```

Foreign exceptions (MLflow's, requests', SQLAlchemy's) become a `SinkError` at one place, `mlflow.errors`.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Final, Literal

__all__ = [
    "ArchiveError",
    "CallError",
    "Lack",
    "NotFound",
    "Refused",
    "RunGone",
    "SessionError",
    "SettingsError",
    "SinkError",
    "StateDirError",
    "StoreRefused",
    "TailraceError",
    "Unavailable",
]

Lack = Literal["login", "variables"]
"""What this program lacks that another environment may have: a login to the store, or another variable."""


class TailraceError(Exception):
    """The root of tailrace's own errors.

    Attributes:
        asked_for: The program wants to hear of it, by `on_error="raise"`, though it is the surroundings' doing.
    """

    asked_for = False  # set on the one error, never on a class


class SettingsError(TailraceError):
    """A setting is wrong. The message names the key, the value, where it came from, and what is allowed."""


class StateDirError(TailraceError):
    """No directory in which state can be kept. The message names it and says what to do."""


class StoreRefused(TailraceError):
    """This MLflow cannot use the tracking URI, now or later. The message says what to do."""


class ArchiveError(TailraceError):
    """A file is no archive of runs, is damaged, or names files that must not be written. The message says which."""


class NotFound(TailraceError):
    """No run, experiment or model fits what was requested, or several do. The message names those."""


class CallError(TailraceError):
    """A call with arguments that can never work. Raised under `strict=True`, else warned about and counted.

    In a program that has imported MLflow it is an `MlflowException` as well, of the code INVALID_PARAMETER_VALUE: what
    was written for MLflow goes on catching it.
    """

    def __new__(cls, *args: object) -> CallError:
        """Of MLflow's class as well, where that is loaded."""
        mlflows = getattr(sys.modules.get("mlflow.exceptions"), "MlflowException", None)
        if cls is not CallError or mlflows is None:
            return super().__new__(cls, *args)
        return super().__new__(_also(mlflows), *args)

    def __reduce__(self) -> tuple[type[CallError], tuple[object, ...]]:
        return CallError, self.args  # elsewhere it is what is imported there


@functools.lru_cache(maxsize=1)
def _also(mlflows: type[Exception]) -> type[CallError]:
    """A `CallError` that is MLflow's as well."""

    def begin(self: Any, message: object = "") -> None:
        mlflows.__init__(self, message, error_code=_CODE)  # type: ignore[call-arg]

    return type("CallError", (CallError, mlflows), {"__init__": begin, "__module__": __name__})


_CODE: Final = 1000
"""MLflow's number for INVALID_PARAMETER_VALUE."""


class SessionError(TailraceError):
    """A session directory that does not exist, is not ours, or is in use."""


class SinkError(TailraceError):
    """Something went wrong while talking to MLflow."""


class Unavailable(SinkError):
    """The store cannot take it now, but may later: connection, time-out, lock, 429, 5xx.

    Attributes:
        retry_after: Seconds to wait that the server requested, or None.
        answered: The HTTP status of the answer, or None when there was none.
        too_slow: The request was on its way for too long. The store may be at work on it all the same.
        away: It would have been the same for any other request: no answer, or a request for patience or a login.
        here: It has nothing to do with the store: this machine could not prepare the request.
        lacks: The store wants other credentials (`login`), or the way to it something else that stands in a program's
            `variables`: a proxy's login, trust in a certificate. None where it is neither.
    """

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        answered: int | None = None,
        *,
        too_slow: bool = False,
        away: bool = False,
        here: bool = False,
        lacks: Lack | None = None,
    ) -> None:
        super().__init__(message)
        self.away, self.here, self.lacks = away, here, lacks
        self.retry_after = retry_after
        self.answered = answered
        self.too_slow = too_slow


class Refused(SinkError):
    """The store will never take this request as it stands (a bad key, a changed param, a body too large).

    Attributes:
        too_large: It is for the size of the request, and not for what it holds.
    """

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class RunGone(SinkError):
    """The run was deleted in MLflow, or never existed there."""
