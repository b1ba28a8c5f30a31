"""Frameworks' own loggers and callbacks, that log through tailrace: a module for each framework.

They join the active run, MLflow's own included, or begin one that ends with the training. Each stands on
`tailrace.protocol`, so that it takes any tracker, and imports its framework, which has to be installed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["library"]


@contextlib.contextmanager
def library(package: str, *modules: str) -> Iterator[None]:
    """Around the imports of a framework: where it is not installed, the error says what to install.

    Args:
        package: As it is installed.
        modules: As it is imported, if those are other names.

    Raises:
        ImportError: It is not there. What it lacks itself, as Keras a backend, comes out as its own error.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in (modules or (package,)):
            raise
        text = f"tailrace.integrations needs {package} for this: pip install {package}"
        raise ImportError(text, name=error.name) from error
