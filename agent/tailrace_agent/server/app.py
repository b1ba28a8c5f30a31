"""The apps of `mlflow server --app-name`: MLflow's own, and MLflow's with basic auth, each with the bulk route.

MLflow's server is a Flask app, which uvicorn gets inside of a FastAPI app and gunicorn or waitress as it is. The route
is a rule of the Flask app, so it is there in each of them, behind the same checks of hosts, workspaces and logins.

Loading this module imports MLflow's server.
"""

from __future__ import annotations

from typing import Any

from tailrace_agent.bulk.columns import ROUTE
from tailrace_agent.server.route import LOG_BATCH, add_route

__all__ = ["create_app", "create_auth_app"]


def create_app() -> Any:
    """MLflow's server with the bulk route, for `mlflow server --app-name tailrace`.

    Returns:
        What uvicorn, gunicorn or waitress serves: an ASGI app for the first, a WSGI app for the others.

    Raises:
        Exception: Whatever MLflow's server comes up with when it is loaded.

    Thread safety: called once in each worker, before it serves.

    Example:
        $ mlflow server --app-name tailrace --backend-store-uri postgresql://…
    """
    from mlflow.environment_variables import _MLFLOW_SGI_NAME
    from mlflow.server import app

    add_route(app)
    if _MLFLOW_SGI_NAME.get() != "uvicorn":
        return app
    from mlflow.server import fastapi_app  # its module makes the one app that uvicorn serves without an app name

    return fastapi_app.app


def create_auth_app() -> Any:
    """The same over MLflow's basic auth, for `mlflow server --app-name tailrace-auth`.

    Returns:
        As `create_app`.

    Raises:
        ImportError: What basic auth needs is not installed (`pip install tailrace[server]`), or it is one that cannot
            be asked.

    Thread safety: called once in each worker, before it serves.

    Example:
        $ mlflow server --app-name tailrace-auth --backend-store-uri postgresql://…
    """
    from mlflow.server import app, auth
    from mlflow.server.handlers import _add_static_prefix

    # MLflow asks here who may call a route at all, and refuses unknown ones where `MLFLOW_BASIC_AUTH_FAIL_CLOSED` is
    # set. Who may write to which run is asked run by run, in `route`.
    if (_add_static_prefix(LOG_BATCH), "POST") not in auth.BEFORE_REQUEST_VALIDATORS:
        raise ImportError("this MLflow's basic auth has no rule for log_batch, so it cannot be asked who may write")
    for method in ("GET", "POST"):
        auth.BEFORE_REQUEST_VALIDATORS[_add_static_prefix(ROUTE), method] = lambda: True
    add_route(app)
    return auth.create_app(app)
