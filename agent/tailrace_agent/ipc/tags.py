"""Tags that tailrace writes with runs and models, by which it finds them again. Stored for ever: their names stay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = [
    "ATTEMPT_TAG",
    "END_REASON_TAG",
    "END_TAGS",
    "FALLEN_TAG",
    "JOB_TAG",
    "LAST_WORDS_TAG",
    "LEDGER_TAG",
    "MODEL_TAG",
    "NAME_TAG",
    "NODE_TAG",
    "NONE_FELL",
    "NOTE_TAG",
    "RUN_NAME_TAG",
    "RUN_TAG",
    "STOPPED_TAG",
    "STOP_NOW",
    "STOP_TAG",
    "end_tags",
]

ATTEMPT_TAG: Final = "tailrace.attempt"
"""How often the job of a run was started anew."""
END_REASON_TAG: Final = "tailrace.end_reason"
"""Why a run has ended whose program has said nothing of it."""
STOP_TAG: Final = "tailrace.stop"
"""Whoever sets it, in MLflow's UI or by `tailrace stop`, asks the program to end the run; its value: who, and why."""
STOP_NOW: Final = "now"
"""What a request to stop begins with that does not wait for the program to look."""
STOPPED_TAG: Final = "tailrace.stopped_by"
"""Of a run that has ended after that: what it was asked."""
LAST_WORDS_TAG: Final = "tailrace.last_words"
"""The last lines that a program has printed which fell; of other ranks than 0 with `.rank3` behind it."""
END_TAGS: Final = (END_REASON_TAG, STOP_TAG, STOPPED_TAG, "error.type", "error.message")
"""What went wrong at the end of a run. One that goes on is rid of them: they speak of its last attempt alone."""
RUN_TAG: Final = "tailrace.run"
"""tailrace's id of the run, so that an attempt to create it is found whose answer was lost."""
FALLEN_TAG: Final = "tailrace.fallen."
"""Begins a tag whose rest is a node, and whose value says which of its ranks fell, as JSON; or `NONE_FELL`."""
NONE_FELL: Final = "none"
"""Stands in such a tag where ranks had fallen, and were started anew."""
NODE_TAG: Final = "tailrace.node."
"""Begins a tag whose rest is a node, and whose value says which machine is called so, see `delivery.node_names`."""
JOB_TAG: Final = "tailrace.job"
"""The key of the job whose processes share the run, see `runtime.job`."""
LEDGER_TAG: Final = "tailrace.ledger"
"""What became of everything that the run logged, as JSON."""
MODEL_TAG: Final = "tailrace.model"
"""The token of a logged model, and of its version in the registry."""
NAME_TAG: Final = "tailrace.name."
"""Begins a tag whose rest is a name in MLflow, and whose value the name that was logged, which MLflow refuses."""
THINNED_TAG: Final = "tailrace.thinned"
"""Which names of a run are thinned to keep its `overhead_budget`, and why."""
RUN_NAME_TAG: Final = "mlflow.runName"
"""MLflow's own: a run's name."""
NOTE_TAG: Final = "mlflow.note.content"
"""MLflow's own: a run's description."""


def end_tags(tags: Iterable[str]) -> list[str]:
    """Those of a run's tags that a run is rid of which goes on."""
    return [key for key in tags if key in END_TAGS or key.startswith(LAST_WORDS_TAG)]
