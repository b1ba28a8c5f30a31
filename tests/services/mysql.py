"""A MariaDB server of the tests' own, with Debian's binaries: one user, one password, nothing kept."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from helpers.serving import free_port
from services.missing import missing
from services.unprivileged import unprivileged

__all__ = ["MySQL", "mysql"]

USER, PASSWORD = "ada", "mY-sql/s3cr3t"
_DEADLINE = 60.0
# What is not worth a disk is not written to one, but outlives the server (2).
_OPTIONS = ("--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync", "--skip-log-bin")
_AS_MOST_HAVE_IT = ("--skip-name-resolve", "--character-set-server=utf8mb4")


class MySQL:
    """A running server.

    Args:
        server: The program.
        data: Its data directory.
        account: What `subprocess` needs to run it as another user; empty if that is not needed.
    """

    password = PASSWORD

    def __init__(self, server: str, data: Path, account: dict[str, Any]) -> None:
        self._server, self._data, self._account = server, data, account
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def uri(self, database: str, driver: str = "+pymysql", password: str = PASSWORD) -> str:
        """The tracking URI of a database."""
        return f"mysql{driver}://{USER}:{password}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        where = [f"--datadir={self._data}", f"--port={self._port}", "--bind-address=127.0.0.1"]
        where += [f"--socket={self._data / 'socket'}", f"--init-file={self._data.parent / 'user.sql'}"]
        with (self._data.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._server, "--no-defaults", *where, *_OPTIONS, *_AS_MOST_HAVE_IT],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                **self._account,
            )
        until = time.monotonic() + _DEADLINE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                pytest.fail(f"{self._server} does not answer: {(self._data.parent / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_DEADLINE)
            self._process = None

    def execute(self, statement: str) -> None:
        """Runs one statement."""
        import pymysql

        where = {"host": "127.0.0.1", "port": self._port, "user": USER, "password": PASSWORD}
        with pymysql.connect(**where, autocommit=True, connect_timeout=10, read_timeout=60) as connection:
            connection.cursor().execute(statement)

    def _answers(self) -> bool:
        with suppress(Exception):
            self.execute("SELECT 1")
            return True
        return False


@contextmanager
def mysql() -> Iterator[MySQL]:
    """A server while the block lasts. It refuses to run as root, and its user must be able to reach its directory."""
    server = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
    install = shutil.which("mariadb-install-db")
    if server is None or install is None:
        missing("MariaDB's server missing; on Debian: apt install mariadb-server")
    account = unprivileged("MariaDB", "mysql")
    directory = Path(tempfile.mkdtemp(prefix="tailrace-mysql-"))
    try:
        data, user = directory / "data", f"'{USER}'@'127.0.0.1'"
        (directory / "user.sql").write_text(
            f"CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO {user};\n"
        )
        if account:
            shutil.chown(directory, account["user"], account["group"])
        done = subprocess.run(
            [
                install,
                "--no-defaults",
                f"--datadir={data}",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            check=False,
            timeout=_DEADLINE * 2,
            **account,
        )
        if done.returncode != 0:
            pytest.fail(f"{install} failed: {done.stdout.decode(errors='replace')[-2000:]}")
        found = MySQL(server, data, account)
        found.start()
        try:
            yield found
        finally:
            found.stop()
    finally:
        shutil.rmtree(directory)
