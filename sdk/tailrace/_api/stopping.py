"""Whether somebody has asked the program to stop."""

from __future__ import annotations

from tailrace._runs.run_part import RunPart
from tailrace._runs.stopping import asked_to_stop

__all__ = ["StopCalls"]


class StopCalls(RunPart):
    """`should_stop`. A base of `Run`."""

    def should_stop(self) -> bool:
        """Whether somebody has asked this run to stop, or one that it is nested in: to be asked in the training loop.

        Whoever sets the tag `tailrace.stop` of the run in MLflow, or calls `tailrace stop RUN`, asks; it is known here
        within 15 seconds. The program decides where it stops. With several ranks let rank 0 ask and tell the others:
        they may hear of it a step apart.

        Returns:
            True from then on.

        Example:
            >>> for batch in loader:
            ...     if run.should_stop():
            ...         break
        """
        return asked_to_stop(self._core)
