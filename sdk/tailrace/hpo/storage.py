"""Where a study is kept, by what people write: a path, a database's URL, the address of Optuna's gRPC proxy.

A storage that is away is one error, at the start and on the way, with its password masked.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailrace_agent.errors import SettingsError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from optuna.storages import BaseStorage

__all__ = ["gone_away", "masked", "need_optuna", "open_storage", "reason_of"]

_CONNECT_WITHIN: Final = 10
"""Seconds."""
_BEAT_EVERY, _STALE_AFTER = 10, 60
"""Seconds; of trials in a database. One whose process has not been heard of for so long is FAIL."""
_GRPC_PORT: Final = 13000


def need_optuna() -> Any:
    """Optuna.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise SettingsError("a search needs Optuna: pip install 'tailrace[hpo]'") from error
    return optuna


def open_storage(storage: str | os.PathLike[str] | BaseStorage | None) -> BaseStorage:
    """Opens a storage.

    Args:
        storage: A path: a file that several processes of one machine share (Optuna's JournalStorage). `postgresql://…`
            or another URL of SQLAlchemy's: a database, for several machines. `grpc://host:port`: Optuna's proxy.
            None: this process's memory. What Optuna has opened already stays as it is.

    Raises:
        SettingsError: It can never be opened like this.
        Unavailable: It does not answer.
    """
    optuna = need_optuna()
    if storage is None:
        return optuna.storages.InMemoryStorage()  # type: ignore[no-any-return]
    if not isinstance(storage, (str, os.PathLike)):
        return storage
    text = os.fspath(storage)
    scheme, _, rest = text.partition("://")
    if not rest:
        return _journal(optuna, text)
    return _proxy(optuna, rest) if scheme == "grpc" else _database(optuna, text)


def masked(storage: object) -> str:
    """What a person may read of a storage."""
    if storage is None:
        return "memory"
    text = os.fspath(storage) if isinstance(storage, (str, os.PathLike)) else type(storage).__name__
    if "://" not in text:
        return text
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(text).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):  # a port that is no number
        return f"{text.partition('://')[0]}://…"


def gone_away(error: BaseException, storage: object) -> Unavailable | None:
    """The error for a storage that has gone away on the way; None where another error has ended the search.

    Args:
        error: What came out of a study. An objective's own errors do not.
        storage: As it was given.
    """
    kinds = _kinds()
    # Optuna stumbles over some of them, and raises another error then.
    found = next((link for link in _chain(error) if isinstance(link, kinds)), None)
    if found is None or storage is None:  # memory does not go away
        return None
    reason = _without_password(reason_of(found), storage)
    return Unavailable(
        f"storage {masked(storage)} has gone away on the way: {reason}. All that was logged is delivered; once it is "
        "there again, the same command goes on with the study"
    )


def reason_of(error: BaseException) -> str:
    """Why a storage does not answer, in one line: the cause of Optuna's own error, which does not say."""
    cause = error.__cause__ or error
    details = getattr(cause, "details", None)  # gRPC's
    text = " ".join(str(details() if callable(details) else getattr(cause, "orig", None) or cause).split())
    return text.rstrip(".") or type(cause).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _kinds() -> tuple[type[BaseException], ...]:
    """What storages raise, of those libraries that are loaded."""
    kinds: list[type[BaseException]] = [OSError]
    for module, name in (
        ("optuna.exceptions", "StorageInternalError"), ("sqlalchemy.exc", "SQLAlchemyError"), ("grpc", "RpcError"),
    ):  # fmt: skip
        if (loaded := sys.modules.get(module)) is not None:
            kinds.append(getattr(loaded, name))
    return tuple(kinds)


def _without_password(text: str, storage: object) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        password = make_url(storage).password if isinstance(storage, str) and "://" in storage else None
    except (ArgumentError, ValueError):
        return text
    return text.replace(password, "***") if password else text


def _journal(optuna: Any, path: str) -> BaseStorage:
    from tailrace.hpo.journal import Journal

    try:
        if _begins(path) not in (b"", b"{"):  # Optuna would append to it
            raise SettingsError(f"storage {path!r} is no journal of Optuna's; a database is named as sqlite:///…")
        storage: BaseStorage = optuna.storages.JournalStorage(Journal(path))
    except OSError as error:
        raise SettingsError(f"storage {path!r} cannot be opened: {error.strerror or error}") from error
    return storage


def _proxy(optuna: Any, address: str) -> BaseStorage:
    host, _, port = address.strip("/").partition(":")
    if not host or not (port or "1").isdigit():
        raise SettingsError(f"storage 'grpc://{address}' is no address; write grpc://host:{_GRPC_PORT}")
    proxy: Any = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port or _GRPC_PORT))
        proxy.wait_server_ready(timeout=_CONNECT_WITHIN)
    except ImportError as error:
        raise SettingsError("Optuna's gRPC proxy needs grpcio: pip install grpcio protobuf") from error
    except ConnectionError as error:
        proxy.close()
        advice = "is Optuna's proxy server running there?"
        raise Unavailable(f"storage grpc://{address} does not answer within {_CONNECT_WITHIN} s: {advice}") from error
    return proxy  # type: ignore[no-any-return]


_TRIES: Final = 5
_PAUSE: Final = 0.5  # seconds


def _with_tables(opened: Callable[[], BaseStorage]) -> BaseStorage:
    """The storage. Optuna creates its tables without a lock: another machine may be about it at the same moment."""
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for _ in range(_TRIES - 1):
        try:
            return opened()
        except (IntegrityError, ProgrammingError):
            time.sleep(_PAUSE)
    return opened()


def _database(optuna: Any, url: str) -> BaseStorage:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    shown = masked(url)
    try:
        parsed = make_url(url)
        waits = parsed.get_backend_name() in ("postgresql", "mysql")
        arguments = {"connect_args": {"connect_timeout": _CONNECT_WITHIN}} if waits else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = _with_tables(
                lambda: optuna.storages.RDBStorage(
                    url, engine_kwargs=arguments, heartbeat_interval=_BEAT_EVERY, grace_period=_STALE_AFTER
                )
            )
    except ImportError as error:
        raise SettingsError(f"storage {shown}: its driver is not installed: {error.__cause__ or error}") from error
    except (ArgumentError, ValueError) as error:
        raise SettingsError(f"storage {shown} is no URL of a database; write postgresql://user@host/name") from error
    except SQLAlchemyError as error:
        reason = _without_password(" ".join(str(getattr(error, "orig", None) or error).split()), url)
        raise Unavailable(f"storage {shown} cannot be used: {reason}") from error
    return storage


def _begins(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(1)
    except FileNotFoundError:
        return b""
