"""The stores that tailrace is tested against, each as a tracking URI and what the environment must hold for it."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient

from helpers.serving import serving
from services.mysql import MySQL
from services.postgresql import PostgreSQL

__all__ = ["BUCKET", "LOGIN", "Backend", "S3", "authenticated_server", "certificate", "object_store", "over_postgresql"]

BUCKET = "runs"
LOGIN = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "b4sic-s3cr3t-pa55"}
_WRONG = "wr0ng/pa55"
_databases = itertools.count()


@dataclass(frozen=True)
class Backend:
    """A store.

    Attributes:
        uri: Its tracking URI, with a database's password in it.
        variables: What the environment of whoever talks to it must hold.
        wrong: Variables with another password.
        secrets: The password that it asks for, and the wrong one.
        appends_blindly: Whether it keeps a point twice that was sent twice.
        artifacts: The artifact location that an experiment must be given.
        bucket: Where its artifacts are, if not on a disk.
    """

    uri: str
    variables: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    appends_blindly: bool = False
    artifacts: str | None = None
    bucket: S3 | None = None

    def experiment(self, name: str) -> str:
        """The name of an experiment of this store that exists."""
        MlflowClient(self.uri).create_experiment(name, self.artifacts)
        return name


class S3:
    """moto's server.

    Args:
        url: Its address.
    """

    def __init__(self, url: str) -> None:
        self.variables = {
            "MLFLOW_S3_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "ada",
            "AWS_SECRET_ACCESS_KEY": "s3-s3cr3t-pa55",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def paths(self, bucket: str = BUCKET) -> list[str]:
        """Where all objects of a bucket are."""
        found = self._client().list_objects_v2(Bucket=bucket)
        return [item["Key"] for item in found.get("Contents", [])]

    def create(self, bucket: str = BUCKET) -> None:
        """Creates a bucket."""
        self._client().create_bucket(Bucket=bucket)

    def _client(self):  # type: ignore[no-untyped-def]  # boto3 makes its classes at run time
        import boto3

        names = {
            "MLFLOW_S3_ENDPOINT_URL": "endpoint_url",
            "AWS_ACCESS_KEY_ID": "aws_access_key_id",
            "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
            "AWS_DEFAULT_REGION": "region_name",
        }
        return boto3.client("s3", **{names[name]: value for name, value in self.variables.items()})


@contextmanager
def object_store() -> Iterator[S3]:
    """An S3 endpoint with an empty bucket, in a thread of this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        s3 = S3("http://{}:{}".format(*server.get_host_and_port()))
        s3.create()
        yield s3
    finally:
        server.stop()


@contextmanager
def authenticated_server(directory: Path, database: Path) -> Iterator[Backend]:
    """MLflow's server with basic auth, over TLS with an authority of its own, and one user who may do everything."""
    tls = certificate(directory)
    config = directory / "auth.ini"
    lines = ["[mlflow]", "default_permission = NO_PERMISSIONS", f"database_uri = sqlite:///{directory / 'auth.db'}"]
    lines += [f"admin_username = {LOGIN['MLFLOW_TRACKING_USERNAME']}"]
    lines += [f"admin_password = {LOGIN['MLFLOW_TRACKING_PASSWORD']}"]
    lines += ["authorization_function = mlflow.server.auth:authenticate_request_basic_auth"]
    lines += ["auth_cache_ttl_seconds = 60"]  # checking a password takes a third of a second, at every request
    config.write_text("\n".join(lines))
    arguments = ["--app-name", "basic-auth", "--backend-store-uri", f"sqlite:///{database}"]
    arguments += ["--artifacts-destination", str(directory / "artifacts")]
    secret = {"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-tests"}
    with serving(directory, *arguments, tls=tls, **secret) as url:
        wrong = {"MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_PASSWORD": _WRONG}
        yield Backend(
            url,
            {**LOGIN, "MLFLOW_TRACKING_SERVER_CERT_PATH": str(tls)},
            wrong,
            (LOGIN["MLFLOW_TRACKING_PASSWORD"], _WRONG),
        )


def certificate(directory: Path) -> Path:
    """A key and its certificate for this machine's loopback address, signed by itself."""
    path = directory / "tls.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(directory / "certificate")]
    subprocess.run(command, check=True, capture_output=True)
    with path.open("a") as both:
        both.write((directory / "certificate").read_text())
    return path


@contextmanager
def over_postgresql(directory: Path, server: PostgreSQL, s3: S3) -> Iterator[Backend]:
    """MLflow's server on PostgreSQL, which keeps the artifacts that it is sent on S3."""
    uri = fresh_database(server, "+psycopg2")
    arguments = ["--backend-store-uri", uri, "--artifacts-destination", f"s3://{BUCKET}/proxied"]
    with serving(directory, *arguments, **s3.variables) as url:
        yield Backend(url, bucket=s3)


def fresh_database(server: PostgreSQL | MySQL, driver: str = "") -> str:
    """The URI of an empty database."""
    name = f"mlflow{next(_databases)}"
    server.execute(f"CREATE DATABASE {name}")
    return server.uri(name, driver)


def directly(server: PostgreSQL | MySQL, driver: str = "") -> Backend:
    """A database without a server of MLflow's before it."""
    uri = fresh_database(server, driver)
    wrong = {"MLFLOW_TRACKING_URI": uri.replace(server.password, _WRONG)}
    return Backend(uri, wrong=wrong, secrets=(server.password, _WRONG))
