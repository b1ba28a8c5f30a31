"""A run, as wandb's users know it, over a run of tailrace."""

from __future__ import annotations

import ast
import dataclasses
import glob
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from tailrace.wandb._artifact import Artifact
from tailrace.wandb._config import Config
from tailrace.wandb._guard import VOICE, Absent, guarded, unsupported
from tailrace.wandb._rows import Rows, flat
from tailrace.wandb._steps import Metric, Row, Steps
from tailrace.wandb._summary import Summary
from tailrace.wandb._values import nested
from tailrace.wandb._wanted import Wanted, note_id
from tailrace.wandb._watching import Watch

if TYPE_CHECKING:
    import tailrace

__all__ = ["Run"]

_SUMMARIES: Final = frozenset(("min", "max", "mean"))
_LEVELS: Final[dict[str, Literal["info", "warning", "error"]]] = {
    "INFO": "info",
    "WARN": "warning",
    "WARNING": "warning",
    "ERROR": "error",
}


class Run:
    """What `wandb.init` returns.

    Args:
        tracked: tailrace's run; None where the mode is `disabled`.
        wanted: What it is.
        step: wandb's first step.
        earlier: Of a run that is gone on with: its params in MLflow.
        summary: Of such a one: its last metrics.

    Attributes:
        resumed: Whether it goes on with an earlier run.
        pid: The process that began it.

    Thread safety: every method from any thread.
    """

    def __init__(
        self,
        tracked: tailrace.Run | None,
        wanted: Wanted,
        *,
        step: int = 0,
        earlier: Mapping[str, str] | None = None,
        summary: Mapping[str, float] | None = None,
    ) -> None:
        self._tracked, self._wanted, self._params = tracked, wanted, dict(earlier or {})
        self.resumed, self.pid = earlier is not None, os.getpid()
        self._steps = Steps(step)
        self._saved: dict[Path, tuple[str | None, float]] = {}
        self._watches: list[Watch] = []
        self._dir: Path | None = None
        self.start_time = time.time()
        self.starting_step = step
        self.config = Config(self._put_config)
        self.config.restore(nested({name: _as_logged(text) for name, text in self._params.items()}))
        self.summary = Summary(self._put_summary)
        self.summary.restore(summary or {})
        self._rows = Rows(tracked, self._steps, self.summary)
        self.finished = False

    # -- logging -----------------------------------------------------------------------------------------------------

    @guarded()
    def log(
        self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None, sync: bool | None = None
    ) -> None:
        """Logs a row, or a part of one.

        Args:
            data: Values by name: numbers, texts, images, tables, histograms, pages, figures; nested ones become `a.b`.
            step: wandb's step; what is lower than the last one is ignored, with a warning.
            commit: False: more of this row comes. By default a row is complete where no step is given.
            sync: Not used.
        """
        given: object = data  # whatever a script passes
        if not isinstance(given, Mapping):
            VOICE.warn(
                f"wandb.log takes a dictionary, not {type(given).__name__}: it is not logged", once="no dictionary"
            )
            return
        if self.finished:
            VOICE.warn(f"wandb.log after the run {self.id} was finished: it is not logged", once="finished")
            return
        self._rows.take(flat(given), step, commit)

    @guarded(lambda: Metric(""))
    def define_metric(
        self,
        name: str,
        step_metric: str | Metric | None = None,
        step_sync: bool | None = None,
        hidden: bool | None = None,
        summary: str | None = None,
        goal: str | None = None,
        overwrite: bool | None = None,
    ) -> Metric:
        """Gives metrics a step of their own, or their extremes in the summary.

        Args:
            name: A metric, or `val/*`.
            step_metric: The metric whose value is their step in MLflow, where it is a whole number.
            step_sync: Not used: the last value of `step_metric` always counts.
            hidden: Not used.
            summary: `min`, `max`, `mean`, or several with commas; they are logged at the run's end as `name.min`.
            goal: Not used.
            overwrite: Not used: a later definition always replaces.
        """
        wanted = {each.strip() for each in (summary or "").split(",")}
        if "best" in wanted:
            wanted |= {"max" if goal == "maximize" else "min"}
        by = step_metric.name if isinstance(step_metric, Metric) else step_metric
        metric = Metric(str(name), by, frozenset(wanted & _SUMMARIES))
        self._steps.define(metric)
        if by is not None:  # for a program that goes on with the run
            self._set_tags(self._steps.noted())
        return metric

    @guarded()
    def alert(self, title: str, text: str = "", level: Any = None, wait_duration: Any = None) -> None:
        """Notifies people; see `tailrace.Run.alert`."""
        if self._tracked is not None:
            name = str(getattr(level, "value", level) or "INFO").upper()
            self._tracked.alert(title, text, _LEVELS.get(name, "warning"))

    @guarded()
    def watch(
        self,
        models: Any,
        criterion: Any = None,
        log: str | None = "gradients",
        log_freq: int = 1000,
        idx: int | None = None,
        log_graph: bool = False,
    ) -> None:
        """Logs the norms of a module's gradients and parameters with every `log_freq`-th backward pass.

        Args:
            models: A module, or several.
            criterion: Not used.
            log: `gradients`, `parameters`, `all`, or None.
            log_freq: Passes between two looks.
            idx: Not used.
            log_graph: Not supported.
        """
        if log_graph:
            unsupported("watch(log_graph=True)")
        if log is None or self._tracked is None:
            return
        for model in models if isinstance(models, (list, tuple)) else [models]:
            prefix = f"graph_{len(self._watches)}" if self._watches else ""
            self._watches.append(Watch(model, log, log_freq, self._put_pending, prefix))

    def unwatch(self, models: Any = None) -> None:
        """Watches no more."""
        wanted = models if isinstance(models, (list, tuple)) else [models]
        for watch in [each for each in self._watches if models is None or any(each.model is one for one in wanted)]:
            watch.remove()
            self._watches.remove(watch)

    # -- files -------------------------------------------------------------------------------------------------------

    @guarded(list)
    def save(
        self,
        glob_str: str | os.PathLike[str] | None = None,
        base_path: str | os.PathLike[str] | None = None,
        policy: str = "live",
    ) -> list[str]:
        """Logs files as they are now; those that have changed by the run's end once more, unless `policy` is `now`.

        Args:
            glob_str: A path or a pattern.
            base_path: The directory from which their paths in the run are meant; else they lie in its root.
            policy: `live`, `end` or `now`.

        Returns:
            The files.
        """
        paths = sorted(glob.glob(str(glob_str or ""), recursive=True))  # noqa: PTH207 - absolute ones, too
        found = [Path(path) for path in paths]
        files = [path for path in found if path.is_file()]
        for path in files:
            folder = None
            if base_path is not None:
                inside = path.absolute().parent.relative_to(Path(base_path).absolute()).as_posix()
                folder = None if inside == "." else inside
            if policy != "end":
                self._upload(path, folder)
            if policy != "now":
                self._saved[path.absolute()] = (folder, -1.0 if policy == "end" else path.stat().st_mtime)
        return [str(path) for path in files]

    @guarded(lambda: Artifact("nothing"))
    def log_artifact(
        self,
        artifact_or_path: Any,
        name: str | None = None,
        type: str | None = None,  # noqa: A002 - wandb's own name
        aliases: Iterable[str] | None = None,
        tags: Iterable[str] | None = None,
    ) -> Artifact:
        """Logs an artifact, or a file or directory as one, under `artifacts/<name>`.

        Args:
            artifact_or_path: The artifact, or a path.
            name: Its name, for a path.
            type: Its kind, for a path.
            aliases: Names of this version; they are kept in its `artifact.json`.
            tags: The same.

        Returns:
            The artifact.
        """
        artifact = artifact_or_path
        if not isinstance(artifact, Artifact):
            path = Path(artifact_or_path)
            artifact = Artifact(name or path.name, type or "unspecified")
            (artifact.add_dir if path.is_dir() else artifact.add_file)(path)
        artifact.aliases = [*artifact.aliases, *(aliases or ()), *(tags or ())]
        if self._tracked is not None:
            artifact.put(self._tracked)
        return artifact

    def log_model(self, path: str | os.PathLike[str], name: str | None = None, aliases: Any = None) -> None:
        """Logs the files of a model as an artifact."""
        self.log_artifact(path, name or f"run-{self.id}-{Path(path).name}", "model", aliases)

    def log_code(self, root: str = ".", *args: Any, **more: Any) -> None:
        """Not supported: tailrace notes the commit, and with `git_diff` what is not committed."""
        unsupported("run.log_code", "tailrace notes the commit, and with TAILRACE_GIT_DIFF=1 what is not committed")

    def use_artifact(self, *args: Any, **more: Any) -> Absent:
        """Not supported."""
        return unsupported("run.use_artifact", "read it with tailrace's or MLflow's own calls")

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """wandb's id."""
        return self._wanted.id

    @property
    def name(self) -> str | None:
        """Its name; where none was given, MLflow's, which is waited for."""
        if self._wanted.name is not None or self._tracked is None:
            return self._wanted.name
        return self._tracked.run_name

    @name.setter
    def name(self, name: str | None) -> None:
        self._rename(str(name))

    @property
    def project(self) -> str | None:
        """Its project: MLflow's experiment."""
        return self._wanted.project

    @property
    def entity(self) -> str:
        """As it was given; it means nothing to MLflow."""
        return self._wanted.entity or ""

    @property
    def group(self) -> str:
        """Its group."""
        return self._wanted.group or ""

    @property
    def job_type(self) -> str:
        """Its job type."""
        return self._wanted.job_type or ""

    @property
    def tags(self) -> tuple[str, ...]:
        """wandb's tags; one that is taken away stays in MLflow."""
        return self._wanted.tags

    @tags.setter
    def tags(self, tags: tuple[str, ...]) -> None:
        self._retag(tags)

    @property
    def notes(self) -> str | None:
        """Its notes."""
        return self._wanted.notes

    @notes.setter
    def notes(self, notes: str | None) -> None:
        self._describe(str(notes or ""))

    @property
    def step(self) -> int:
        """The step of the next row."""
        return self._steps.step

    @property
    def offline(self) -> bool:
        """Whether it goes to a database on this machine."""
        return self._wanted.mode == "offline"

    @property
    def disabled(self) -> bool:
        """Whether nothing is tracked."""
        return self._tracked is None

    @property
    def url(self) -> str | None:
        """Its page in MLflow; waits until MLflow has the run."""
        return None if self._tracked is None else self._tracked.url

    def get_url(self) -> str | None:
        """Its page in MLflow."""
        return self.url

    @property
    def path(self) -> str:
        """`entity/project/id`."""
        return f"{self.entity}/{self.project or ''}/{self.id}"

    @property
    def sweep_id(self) -> None:
        """None: there are no sweeps."""

    @property
    def dir(self) -> str:
        """A directory whose files are logged at the run's end."""
        if self._dir is None:
            self._dir = self._wanted.dir / "wandb" / f"run-{self.id}" / "files"
            self._dir.mkdir(parents=True, exist_ok=True)
        return str(self._dir)

    @property
    def tracked(self) -> tailrace.Run | None:
        """tailrace's run, with all of its calls."""
        return self._tracked

    # -- the end -----------------------------------------------------------------------------------------------------

    @guarded()
    def finish(self, exit_code: int | None = None, quiet: bool | None = None) -> None:
        """Ends the run, and waits for its delivery as `tailrace.Run.end` does.

        Args:
            exit_code: What is not 0 makes it FAILED.
            quiet: Not used.
        """
        if self._finish(gone_well=not exit_code) and self._tracked is not None:
            self._tracked.end("FAILED" if exit_code else "FINISHED")

    def put_rest(self) -> None:
        """Logs what waits for the run's end: rows that were not committed, extremes, files."""
        if self.finished or self._tracked is None:
            return
        self._put_values()
        self._put_files()

    def mark_preempting(self) -> None:
        """Nothing: a run whose process is gone is found by its agent."""

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._finish(gone_well=error is None) and self._tracked is not None:
            self._tracked.__exit__(kind, error, traceback)

    # A configuration that holds a run may be copied: the copy means the same run.
    def __copy__(self) -> Run:
        return self

    def __deepcopy__(self, memo: object) -> Run:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return unsupported(f"run.{name}")

    def __repr__(self) -> str:
        return f"<wandb run {self.id}, by tailrace: {self._tracked!r}>"

    # -- inside ------------------------------------------------------------------------------------------------------

    def _finish(self, *, gone_well: bool) -> bool:
        """Logs what is left; False where that was done before."""
        if self.finished:
            return False
        self.put_rest()
        self.finished = True
        self.unwatch()
        if self._wanted.resume == "auto" and gone_well:
            note_id(self._wanted.dir, None)
        return True

    @guarded(called="finish")
    def _put_values(self) -> None:
        self._rows.finish()

    @guarded(called="finish")
    def _put_files(self) -> None:
        saved, self._saved = self._saved, {}
        for path, (folder, before) in saved.items():
            if path.is_file() and path.stat().st_mtime != before:
                self._upload(path, folder)
        if self._tracked is not None and self._dir is not None and any(self._dir.iterdir()):
            self._tracked.log_artifacts(self._dir)

    @guarded(called="run.name")
    def _rename(self, name: str) -> None:
        self._wanted = dataclasses.replace(self._wanted, name=name)
        self._set_tags({"mlflow.runName": name})

    @guarded(called="run.notes")
    def _describe(self, notes: str) -> None:
        self._wanted = dataclasses.replace(self._wanted, notes=notes)
        self._set_tags({"mlflow.note.content": notes})

    @guarded(called="run.tags")
    def _retag(self, tags: Iterable[str]) -> None:
        before = self._wanted.tags
        self._wanted = dataclasses.replace(self._wanted, tags=tuple(str(tag) for tag in tags))
        self._set_tags(dict.fromkeys([tag for tag in self._wanted.tags if tag not in before], "true"))

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        if self._tracked is not None and tags:
            self._tracked.set_tags(tags)

    def _put_pending(self, values: dict[str, Any]) -> None:
        self._rows.take(values, None, commit=False)

    def _put_config(self, new: dict[str, Any], changed: dict[str, Any]) -> None:
        if self._tracked is None:
            return
        if self._params:  # those of a run that is gone on with are there already
            given, new = new, {}
            for key, value in flat(given).items():
                if key not in self._params:
                    new[key] = value
                elif str(value) != self._params[key]:
                    changed = {**changed, key: value}
        if new:
            self._tracked.log_params(new)
        if changed:  # MLflow's params never change
            self._tracked.set_tags({f"config.{key}": value for key, value in flat(changed).items()})

    def _put_summary(self, values: dict[str, Any]) -> None:
        if self._tracked is not None:
            self._rows.put(Row(self._steps.step, flat(values)))

    def _upload(self, path: Path, folder: str | None) -> None:
        if self._tracked is not None:
            self._tracked.log_artifact(path, folder)


def _as_logged(text: str) -> Any:
    """A param of MLflow's as the value that it came from, as far as its text says."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # a text
        return text
