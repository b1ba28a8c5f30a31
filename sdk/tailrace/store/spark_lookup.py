"""MLflow's look for a Spark session, spared where there can be none.

MLflow makes a client for each fluent call, which asks Spark where the model registry is, and that is `import pyspark`:
where it is not installed, a hundred microseconds of looking for it. A process that has not imported it has no session.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Final

from mlflow.tracking._model_registry import utils

__all__ = ["spare_spark_lookup"]

_LOOKUP: Final = "_get_registry_uri_from_spark_session"


def spare_spark_lookup() -> None:
    """Has MLflow look for a session in a process that has imported pyspark, and in no other."""
    look = getattr(utils, _LOOKUP, None)  # a later MLflow may look elsewhere: then it costs what it costs
    if look is None or hasattr(look, "tailrace_before"):
        return

    @functools.wraps(look)
    def look_if_there_can_be_one() -> Any:
        return look() if "pyspark" in sys.modules else None

    look_if_there_can_be_one.tailrace_before = look  # type: ignore[attr-defined]
    setattr(utils, _LOOKUP, look_if_there_can_be_one)
