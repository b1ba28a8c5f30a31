"""What calls with `synchronous=False` return: something to wait on, in the shape that MLflow gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailrace._api.run import Run
    from tailrace_agent.ledger import Ledger

__all__ = ["RunOperations"]


class RunOperations:
    """What was logged by one call. It is on its way, and needs nobody to wait for it.

    MLflow's class of this name raises from `wait` what a request has met with. Here nothing is raised into training:
    what MLflow refuses is a dead letter, with a warning, and what could not be sent yet goes on being tried.

    Args:
        run: The run that it was logged to.

    Thread safety: any thread.

    Example:
        >>> operations = tailrace.log_metric("loss", 0.5, synchronous=False)
        >>> operations.wait().settled
        True
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def wait(self, timeout: float | None = None) -> Ledger:
        """Waits until it is delivered or dead, with all that was logged to the run before.

        Args:
            timeout: Seconds; `end_timeout` by default.

        Returns:
            The run's ledger; `settled` is whether the time was enough.
        """
        return self._run.flush(timeout)
