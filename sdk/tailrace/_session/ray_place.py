"""Where this process stands in a job of Ray: the driver, or a worker that does one task after another.

Ray's tasks and actors have no ranks: what they log goes, under plain names, to the run that is active in their driver.
On the driver's node they find its session by the job. Nothing here imports Ray: it looks at what is imported already.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

__all__ = ["RayPlace", "ray_place"]

_WORKER = 1  # ray._private.worker.WORKER_MODE


class RayPlace(NamedTuple):
    """A process of a job of Ray.

    Attributes:
        key: The same in all processes of the job.
        task: What this process works for now, a task or an actor; None in the driver.
    """

    key: str
    task: str | None


def ray_place() -> RayPlace | None:
    """This process's place in Ray; None where there is none, or Ray does not say.

    Thread safety: any thread; the task is that of the calling one.
    """
    ray: Any = sys.modules.get("ray")
    if ray is None:
        return None
    try:
        if not ray.is_initialized():
            return None
        context = ray.get_runtime_context()
        # Ids of jobs begin anew in each cluster.
        key = f"ray:{context.gcs_address}:{context.get_job_id()}"
        if context.worker.mode != _WORKER:
            return RayPlace(key, None)
        # An actor may begin a run in one call and end it in another.
        return RayPlace(key, context.get_actor_id() or context.get_task_id())
    except Exception:  # noqa: BLE001 - another version of Ray, or one that is just going down
        return None
