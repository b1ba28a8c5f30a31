"""Every error that tailrace raises or hands from layer to layer.

```
TailraceError
├── SettingsError        a setting is wrong: names the key, the value, what is allowed
├── StateDirError        no directory to keep state in
├── StoreRefused         this MLflow cannot use the tracking URI at all
│   └── StoreAbsent      there is no such file yet
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
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from typing_extensions import Self

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
    "StoreAbsent",
    "StoreRefused",
    "TailraceError",
    "Unavailable",
]

Lack = Literal["login", "variables"]
"""What this program lacks that another environment may have: a login to the store, or another variable."""


class TailraceError(Exception):
    """The root of tailrace's own errors.

    Those that say what MLflow's own errors say, by their `error_code`, are `MlflowException`s as well in a program that
    has imported MLflow: what was written for MLflow goes on catching them.

    Attributes:
        asked_for: The program wants to hear of it, by `on_error="raise"`, though it is the surroundings' doing.
        error_code: MLflow's name for what is wrong; None where MLflow has no such error.
    """

    asked_for = False  # set on the one error, never on a class
    error_code: str | None = None

    def __new__(cls, *args: object, **_: object) -> Self:
        """Of MLflow's class as well, where that is loaded."""
        kind: Any = cls
        mlflows = getattr(sys.modules.get("mlflow.exceptions"), "MlflowException", None)
        if cls.error_code is not None and mlflows is not None and not issubclass(cls, mlflows):
            kind = _also(kind, mlflows)
        error: Self = super().__new__(kind, *args)
        return error


@functools.lru_cache(maxsize=64)
def _also(ours: Any, mlflows: Any) -> type:
    """One of our errors that is MLflow's as well."""

    def begin(self: Any, *args: Any, **kwargs: Any) -> None:
        mlflows.__init__(self, *args[:1] or ("",))
        ours.__init__(self, *args, **kwargs)
        self.error_code = ours.error_code  # MLflow's own begins as INTERNAL_ERROR

    def reduce(self: Any) -> tuple[Any, ...]:
        return ours, self.args, self.__dict__  # elsewhere it is what is imported there

    members = {"__init__": begin, "__reduce__": reduce, "__module__": ours.__module__, "__doc__": ours.__doc__}
    return type(ours.__name__, (ours, mlflows), members)


class SettingsError(TailraceError):
    """A setting is wrong. The message names the key, the value, where it came from, and what is allowed."""


class StateDirError(TailraceError):
    """No directory in which state can be kept. The message names it and says what to do."""


class StoreRefused(TailraceError):
    """This MLflow cannot use the tracking URI, now or later. The message says what to do."""

    error_code = "BAD_REQUEST"


class StoreAbsent(StoreRefused):
    """A store to be read is a file that is not there: nothing was logged to it, or the URI is another."""


class ArchiveError(TailraceError):
    """A file is no archive of runs, is damaged, or names files that must not be written. The message says which."""


class NotFound(TailraceError):
    """No run, experiment or model fits what was requested, or several do. The message names those."""

    error_code = "RESOURCE_DOES_NOT_EXIST"


class CallError(TailraceError):
    """A call with arguments that can never work. Raised under `strict=True`, else warned about and counted."""

    error_code = "INVALID_PARAMETER_VALUE"


class SessionError(TailraceError):
    """A session directory that does not exist, is not ours, or is in use."""


class SinkError(TailraceError):
    """Something went wrong while talking to MLflow."""

    error_code = "INTERNAL_ERROR"


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

    error_code = "TEMPORARILY_UNAVAILABLE"

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

    error_code = "BAD_REQUEST"

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class RunGone(SinkError):
    """The run was deleted in MLflow, or never existed there."""

    error_code = "RESOURCE_DOES_NOT_EXIST"
