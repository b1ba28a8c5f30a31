"""A PostgreSQL server of the tests' own, with Debian's binaries: one user, one password, nothing kept."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers.serving import free_port
from services.missing import missing
from services.unprivileged import unprivileged

__all__ = ["PASSWORD", "PostgreSQL", "postgresql"]

USER, PASSWORD = "ada", "p-Gr3s/s3cr3t"
_DEADLINE = 60.0


class PostgreSQL:
    """A running server.

    Args:
        binaries: Where `postgres` is.
        data: Its data directory.
        account: What `subprocess` needs to run it as another user; empty if that is not needed.
    """

    password = PASSWORD

    def __init__(self, binaries: Path, data: Path, account: dict[str, Any]) -> None:
        self._binaries, self._data, self._account = binaries, data, account
        self._port = free_port()

    def uri(self, database: str, driver: str = "", password: str = PASSWORD) -> str:
        """The tracking URI of a database."""
        return f"postgresql{driver}://{USER}:{password}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Starts it, and waits until it answers. What is not worth a disk is not written to one."""
        options = f"-p {self._port} -k {self._data} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._control("start", "-w", "-t", str(int(_DEADLINE)), "-l", str(self._data / "log"), "-o", options)

    def stop(self, how: str = "immediate") -> None:
        """Stops it; `immediate` is what a crash is."""
        self._control("stop", "-w", "-m", how)

    def execute(self, statement: str) -> None:
        """Runs one statement outside of any transaction."""
        import psycopg

        where = {"host": "127.0.0.1", "port": self._port, "user": USER, "password": PASSWORD, "dbname": "postgres"}
        with psycopg.connect(**where, autocommit=True) as connection:
            connection.execute(statement)

    def _control(self, *arguments: str) -> None:
        run(self._account, self._binaries / "pg_ctl", "-D", self._data, *arguments)


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A server while the block lasts. It refuses to run as root, and its user must be able to reach its directory."""
    binaries = _binaries()
    if binaries is None:
        missing("PostgreSQL's server missing; on Debian: apt install postgresql")
    account = unprivileged("PostgreSQL", "postgres")
    directory = Path(tempfile.mkdtemp(prefix="tailrace-postgresql-"))
    try:
        (directory / "password").write_text(PASSWORD)
        data = directory / "data"
        if account:
            for path in (directory, directory / "password"):
                shutil.chown(path, account["user"], account["group"])
        secured = ["--username", USER, "--auth", "scram-sha-256", "--pwfile", directory / "password"]
        run(account, binaries / "initdb", "-D", data, "--no-sync", "--encoding", "UTF8", "--locale", "C", *secured)
        server = PostgreSQL(binaries, data, account)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


def run(account: dict[str, Any], *command: object) -> None:
    """Runs one of PostgreSQL's programs to its end."""
    done = subprocess.run(
        [str(part) for part in command],
        # Its server inherits these; a pipe would stay open with it.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if "initdb" in str(command[0]) else subprocess.DEVNULL,
        cwd="/",
        check=False,
        timeout=_DEADLINE * 2,
        **account,
    )
    if done.returncode != 0:
        pytest.fail(f"{command[0]} failed: {(done.stderr or b'').decode(errors='replace')[-2000:]}")


def _binaries() -> Path | None:
    """Debian keeps them off the PATH, in a directory for each version."""
    found = shutil.which("postgres")
    if found:
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    return versions[-1].parent if versions else None
