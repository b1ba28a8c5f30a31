"""`SummaryWriter` with the calls of `torch.utils.tensorboard`, and MLflow behind it.

```python
from tailrace.tensorboard import SummaryWriter  # was: from torch.utils.tensorboard import SummaryWriter
```

Neither TensorBoard nor torch is needed. What is no scalar, text, image, figure, histogram or hyper-parameter is left
out, with one line. Nothing of that is raised into training.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from tailrace.integrations.framework_run import FrameworkRun
from tailrace.integrations.ranks import is_first
from tailrace.integrations.summaries import Summaries

if TYPE_CHECKING:
    from types import TracebackType

    from tailrace.protocol import TrackerLike

__all__ = ["SummaryWriter"]

P = ParamSpec("P")

_TAGS: dict[str, dict[str, str]] = {}
"""By tailrace's ids of runs: the directories of the writers that have their tags."""


def _written(call: Callable[P, None]) -> Callable[P, None]:
    """A call that goes to the run, and to the event files where they are wanted."""

    @functools.wraps(call)
    def both(*args: P.args, **kwargs: P.kwargs) -> None:
        writer: Any = args[0]
        if writer.writes:
            call(*args, **kwargs)
            if writer.files is not None:
                getattr(writer.files, call.__name__)(*args[1:], **kwargs)

    return both


class SummaryWriter:
    """What TensorBoard's writer takes, by tailrace.

    Joins the active run, or begins one, that ends with `close()`. Several writers are one run; where two of them, with
    directories of their own, have the same tag, the later one's is `<last directory>/<tag>`. A scalar is a metric, at
    the run's own count of calls where it has no step; a tensor on a GPU is not waited for. Of processes that train
    together the first writes.

    Args:
        log_dir: Where event files go; the last directory is the name of a run that it begins.
        comment: Added to that name.
        purge_step: Not used: of values at the same step MLflow keeps both, with their times.
        max_queue: Of the event files.
        flush_secs: Of the event files.
        filename_suffix: Of the event files.
        tfevents: Whether event files are written as well; for that TensorBoard or tensorboardX has to be there.
        tracker: A tracker, or a run; tailrace's own tracker by default.
        all_processes: Whether each process writes.
        **settings: Of a run that it begins: `experiment_name`, `tracking_uri`, what `tailrace.start_run` takes.

    Attributes:
        log_dir: As it was given; `runs` by default.
        purge_step, max_queue, flush_secs, filename_suffix: As they were given.
        files: The writer of event files, if they are wanted.
        writes: Whether this process writes.

    Raises:
        CallError: The tracker is none.
        ImportError: Event files are wanted, and nobody can write them.

    Thread safety: any thread; not that of the event files.

    Example:
        >>> with SummaryWriter("runs/baseline") as writer:
        ...     writer.add_scalar("train/loss", 0.5, 0)
    """

    def __init__(  # noqa: PLR0913 - those of TensorBoard's writer, and ours
        self,
        log_dir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: int = 120,
        filename_suffix: str = "",
        *,
        tfevents: bool = False,
        tracker: TrackerLike | Any = None,
        all_processes: bool = False,
        **settings: Any,
    ) -> None:
        self.writes = all_processes or is_first()
        name = Path(log_dir).name + comment if log_dir is not None else comment
        settings.setdefault("run_name", name.strip("_- ") or None)
        self._framework = FrameworkRun(None, tracker, left=lambda: "FINISHED", **settings)
        self._summaries = Summaries(self._framework)
        self._has_params = False
        self.purge_step, self.max_queue, self.flush_secs = purge_step, max_queue, flush_secs
        self.filename_suffix = filename_suffix
        self.log_dir = "runs" if log_dir is None else os.fspath(log_dir)
        self.files: Any = None
        if tfevents and self.writes:
            self.files = _event_writer()(
                None if log_dir is None else self.log_dir,
                comment=comment,
                purge_step=purge_step,
                max_queue=max_queue,
                flush_secs=flush_secs,
                filename_suffix=filename_suffix,
            )
            self.log_dir = self.files.get_logdir() if log_dir is None else self.log_dir

    # -- what is written ---------------------------------------------------------------------------------------------

    @_written
    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        """One value, as the metric of that name."""
        del new_style, double_precision
        self._scalars({self._own(tag): scalar_value}, _whole(global_step), walltime)

    @_written
    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, Any],
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Several values, as metrics `<main_tag>/<tag>`."""
        named = {self._own(f"{main_tag}/{tag}"): value for tag, value in tag_scalar_dict.items()}
        self._scalars(named, _whole(global_step), walltime)

    @_written
    def add_hparams(
        self,
        hparam_dict: Mapping[str, Any],
        metric_dict: Mapping[str, Any],
        hparam_domain_discrete: Mapping[str, Any] | None = None,
        run_name: str | None = None,
        global_step: int | None = None,
    ) -> None:
        """Params and metrics. A second call, or one with a name, is a run of its own below this one."""
        del hparam_domain_discrete
        run = self._framework.run
        if not self._has_params and run_name is None:
            self._has_params = True
            run.log_params(hparam_dict)
            run.log(metric_dict, step=_whole(global_step) or 0)
            return
        nested = self._framework.below(run_name)
        if nested is None:
            self._summaries.report_once("add_hparams was not logged: the run is given, and can have no run below it")
            return
        with nested as other:
            other.log_params(hparam_dict)
            other.log(metric_dict, step=_whole(global_step) or 0)

    @_written
    def add_text(
        self, tag: str, text_string: str, global_step: int | None = None, walltime: float | None = None
    ) -> None:
        """A text, as a row of the table `text/<tag>.json`."""
        del walltime
        self._summaries.text(self._own(tag), text_string, _whole(global_step))

    @_written
    def add_image(
        self,
        tag: str,
        img_tensor: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        dataformats: str = "CHW",
    ) -> None:
        """An image that MLflow's UI shows by step."""
        del walltime
        self._summaries.image(self._own(tag), img_tensor, _whole(global_step), dataformats)

    @_written
    def add_images(
        self,
        tag: str,
        img_tensor: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        dataformats: str = "NCHW",
    ) -> None:
        """Several images, as one grid."""
        del walltime
        self._summaries.image(self._own(tag), img_tensor, _whole(global_step), dataformats)

    @_written
    def add_figure(
        self, tag: str, figure: Any, global_step: int | None = None, close: bool = True, walltime: float | None = None
    ) -> None:
        """A figure of matplotlib, or several, as files in `figures/<tag>`; closed afterwards."""
        del walltime
        several, tag = isinstance(figure, (list, tuple)), self._own(tag)
        for n, each in enumerate(figure if several else [figure]):
            self._summaries.figure(f"{tag}/{n}" if several else tag, each, _whole(global_step))
            plots: Any = sys.modules.get("matplotlib.pyplot")
            # With event files it is drawn once more, and closed then.
            if close and self.files is None and plots is not None and hasattr(each, "canvas"):
                plots.close(each)

    @_written
    def add_histogram(
        self,
        tag: str,
        values: Any,
        global_step: int | None = None,
        bins: Any = "tensorflow",
        walltime: float | None = None,
        max_bins: int | None = None,
    ) -> None:
        """The counts of some values, as a row of the table `histograms/<tag>.json`."""
        del walltime
        counted = max_bins if isinstance(bins, str) and bins == "tensorflow" else bins
        self._summaries.histogram(self._own(tag), values, _whole(global_step), counted)

    # -- what is not -------------------------------------------------------------------------------------------------

    @property
    def file_writer(self) -> Any:
        """What writes the event files; where there are none, it takes everything and says so once."""
        return self._get_file_writer()

    @property
    def all_writers(self) -> dict[str, Any]:
        """The same, by its directory."""
        return {self.log_dir: self._get_file_writer()}

    def _get_file_writer(self) -> Any:
        if self.files is None:
            return _NoFiles(self.log_dir, self._summaries.report_once if self.writes else lambda _: None)
        return self.files._get_file_writer()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("add_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return functools.partial(self._left_out, name)

    def _left_out(self, name: str, *args: Any, **kwargs: Any) -> None:
        if not self.writes:
            return
        if self.files is None:
            text = f"{name} has no form in MLflow: not logged; tfevents=True keeps it for TensorBoard"
            self._summaries.report_once(text)
        else:
            getattr(self.files, name)(*args, **kwargs)

    # -- the end -----------------------------------------------------------------------------------------------------

    def get_logdir(self) -> str:
        """Where event files go."""
        return self.log_dir

    def flush(self) -> None:
        """Writes event files out. The run needs none of that: what was logged outlives the process already."""
        if self.files is not None:
            self.files.flush()

    def close(self) -> None:
        """Ends the run, if this writer has begun it."""
        self._close(None)

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(error)

    def _close(self, error: BaseException | None) -> None:
        if self.files is not None:
            self.files.close()
        self._framework.end(error=error)

    def _own(self, tag: str) -> str:
        """The name in the run: another where a writer with another directory has that tag there."""
        tags = _TAGS.setdefault(str(getattr(self._framework.run, "id", "")), {})
        if tags.setdefault(tag, self.log_dir) == self.log_dir:
            return tag
        name = Path(self.log_dir).name
        self._summaries.report_once(f"{tags[tag]} and {self.log_dir} have the same tags: here they are '{name}/…'")
        return f"{name}/{tag}"

    def _scalars(self, named: Mapping[str, Any], step: int | None, walltime: float | None) -> None:
        if walltime is None:
            self._framework.run.log(named, step=step)
        else:
            self._framework.call("log_metrics", named, step, timestamp=int(walltime * 1000))


def _whole(step: Any) -> int | None:
    """A step as TensorBoard takes it: what is no integer is cut to one."""
    if step is None or type(step) is int:
        return step
    try:
        return int(step)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: PyTorch's, of several elements
        return step  # type: ignore[no-any-return]  # the run says what is wrong with it


class _NoFiles:
    """In the place of the writer inside of TensorBoard's, where there are no event files.

    Args:
        log_dir: Where they would be.
        report_once: Says that something is not kept.
    """

    def __init__(self, log_dir: str, report_once: Callable[[str], None]) -> None:
        self._log_dir, self._report_once = log_dir, report_once

    def get_logdir(self) -> str:
        return self._log_dir

    def flush(self) -> None:
        pass

    close = reopen = flush

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("add_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return functools.partial(self._left_out, name)

    def _left_out(self, name: str, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        self._report_once(f"file_writer.{name} has no form in MLflow: not logged; tfevents=True keeps it")


def _event_writer() -> Any:
    """A class that writes event files.

    Raises:
        ImportError: There is none.
    """
    for module in ("torch.utils.tensorboard", "tensorboardX"):
        try:
            return import_module(module).SummaryWriter
        except ImportError:
            continue
    raise ImportError("tfevents=True needs torch with tensorboard, or tensorboardX: pip install tensorboardX")
