"""One active run for `mlflow` and `tailrace` in a program that uses both, whichever of them began it.

MLflow keeps the active runs of each thread in a list. With the plug-in that list reports what comes and goes, so that
`tailrace.log` goes to the run that `mlflow.start_run` began, be it before the plug-in came; and where MLflow has none,
it holds the run that `tailrace.start_run` began in this thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlflow.exceptions import MlflowException
from mlflow.tracking import fluent
from mlflow.tracking._tracking_service.utils import _get_store
from mlflow.utils.thread_utils import ThreadLocalVariable

import tailrace
from tailrace._api.tracker_core import module_core
from tailrace._fluent.traced import with_active_run

if TYPE_CHECKING:
    from tailrace._runs.core import RunCore
    from tailrace._runs.current import CurrentRuns
    from tailrace.store.runs import StoreRun, StoreRuns

__all__ = ["end_active_runs", "share_active_run"]

_AT_MOST: Final = 1000


class _ActiveRuns(list[Any]):
    """The active runs of one thread, innermost last, as MLflow keeps them."""

    def __init__(self, before: list[Any]) -> None:
        super().__init__()
        self._before, self._taken = before, 0
        self._cores: dict[str, RunCore] = {}
        self._adopted: RunCore | None = None

    def append(self, run: Any) -> None:
        super().append(run)
        runs: StoreRuns | None = getattr(_get_store(), "tailrace_runs", None)
        self._share(None if runs is None else runs.attached(run))

    def take_over(self) -> None:
        """Takes in the runs of MLflow's own list: those that were active before, and one whose start was under way."""
        while self._taken < len(self._before):
            run_id = self._before[self._taken].info.run_id
            super().append(self._before[self._taken])
            self._taken += 1
            runs: StoreRuns | None = getattr(_get_store(), "tailrace_runs", None)
            try:
                # Read anew: what was logged since it began is not in the list.
                self._share(None if runs is None else runs.to_write(run_id))
            except MlflowException as error:
                module_core().voice.warn(
                    f"MLflow's active run {run_id} cannot be read, so that tailrace.log does not go there: {error}",
                    once=("not taken over", run_id),
                )

    def _share(self, run: StoreRun | None) -> None:
        if run is not None:
            self._cores[run.run_id] = run.core
            _tailrace_runs().enter(run.core)

    @property
    def core(self) -> RunCore | None:
        """tailrace's core of the innermost one."""
        core = self._cores.get(self[-1].info.run_id) if self else None
        if core is not None and core.ended:
            runs: StoreRuns | None = getattr(_get_store(), "tailrace_runs", None)
            found = None if runs is None else runs.known(self[-1].info.run_id)
            if found is not None and not found.core.ended:  # it was deleted, and is back
                self._share(found)
                core = found.core
        return core

    def pop(self, *at: Any) -> Any:
        run = super().pop(*at)
        core = self._cores.pop(run.info.run_id, None)
        if core is not None:
            _tailrace_runs().step_out(core)
        elif not self:
            self._adopted = None
        return run

    @property
    def is_of_tailrace(self) -> bool:
        """Whether it is tailrace that ends the innermost one."""
        return self._adopted is not None

    def agree(self) -> None:
        """Takes in the run that tailrace has begun in this thread, and lets go of one that it has ended."""
        if self._adopted is not None and self._adopted.ended:
            self._adopted = None
            self.clear()
        if self:
            return
        core = _tailrace_runs().active.own()
        if core is None or core.connection is None:
            return
        store = _get_store()
        runs = getattr(store, "tailrace_runs", None)
        if runs is None or (core.spec.tracking_uri or tailrace.get_tracking_uri()) != runs.shown_uri:
            return
        run = fluent.ActiveRun(store.get_run(core.handle.run_id))
        self._adopted = core
        super().append(run)


class _Stacks(ThreadLocalVariable):  # type: ignore[misc]  # MLflow is untyped
    """The lists of all threads.

    Args:
        before: MLflow's own, with the runs that were active before.

    Attributes:
        over: The program ends: what tailrace has begun, it ends itself.
    """

    over = False

    def __init__(self, before: Any) -> None:
        super().__init__(default_factory=lambda: _ActiveRuns(before.get()))
        self._before = before

    def get(self) -> Any:
        stack = super().get()
        stack.take_over()
        if not self.over:
            stack.agree()
        return stack

    def get_all_thread_values(self) -> dict[Any, Any]:
        """What a trace looks at for the run that it names."""
        values = {**self._before.get_all_thread_values(), **super().get_all_thread_values()}
        return with_active_run(values, _tailrace_runs())


def share_active_run() -> None:
    """Has MLflow's active runs and tailrace's be the same, those included that are active by now."""
    before = fluent._active_run_stack
    if not isinstance(before, _Stacks):
        fluent._active_run_stack = _Stacks(before)
        _tailrace_runs().elsewhere = _active_in_mlflow


def _active_in_mlflow() -> RunCore | None:
    """The active run of this thread that began before the plug-in was in place."""
    core: RunCore | None = fluent._active_run_stack.get().core
    return core


def end_active_runs(status: str) -> None:
    """At the program's end: ends the active runs of this thread that MLflow has begun, from the innermost outwards."""
    stacks = fluent._active_run_stack
    if isinstance(stacks, _Stacks):
        stacks.over = True
    for _ in range(_AT_MOST):
        stack = stacks.get()
        if not stack or getattr(stack, "is_of_tailrace", False):
            return
        run_id = stack[-1].info.run_id
        try:
            fluent.end_run(status)
        except Exception as error:  # noqa: BLE001 - the other runs are to end, too
            module_core().voice.warn(f"MLflow's run {run_id} could not be ended: {error}", once=("end", run_id))


def _tailrace_runs() -> CurrentRuns:
    return module_core().runs
