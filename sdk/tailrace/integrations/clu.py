"""CLU: `MetricWriter` with the calls of `clu.metric_writers.MetricWriter`, for training loops in JAX and Flax.

It stands on that interface, and needs neither CLU nor JAX: whoever takes a `MetricWriter` can be given one. Of several
hosts the first is to make one, as `clu.metric_writers.create_default_writer` does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace.integrations.framework_run import FrameworkRun
from tailrace.integrations.summaries import Summaries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace.protocol import TrackerLike

__all__ = ["MetricWriter"]


class MetricWriter:
    """What a `MetricWriter` of CLU writes, by tailrace.

    Joins the active run, or begins one, that ends with `close()`. Scalars on a device are not waited for.

    Args:
        run_name: The run's name, where it begins one.
        tracker: A tracker, or a run; tailrace's own tracker by default.
        tags: Of a run that it begins.
        **settings: Of a run that it begins: `experiment_name`, `tracking_uri`, what `tailrace.start_run` takes.

    Raises:
        CallError: The tracker is none.

    Thread safety: any thread.

    Example:
        >>> writer = MetricWriter("baseline")
        >>> writer.write_scalars(0, {"loss": loss})
        >>> writer.close()
    """

    def __init__(
        self,
        run_name: str | None = None,
        *,
        tracker: TrackerLike | Any = None,
        tags: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self._framework = FrameworkRun(None, tracker, run_name, tags, left=lambda: "FINISHED", **settings)
        self._summaries = Summaries(self._framework)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Metrics of one step."""
        self._framework.run.log(scalars, step=step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Params."""
        self._framework.run.log_params(hparams)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Texts, as rows of the tables `text/<name>.json`."""
        for name, text in texts.items():
            self._summaries.text(name, text, step)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """An image (height x width x channels), or several as one grid, for each name."""
        for name, image in images.items():
            self._summaries.image(name, image, step, "HWC" if getattr(image, "ndim", 4) == 3 else "NHWC")

    def write_histograms(
        self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
    ) -> None:
        """Counts of values, as rows of the tables `histograms/<name>.json`."""
        for name, array in arrays.items():
            self._summaries.histogram(name, array, step, (num_buckets or {}).get(name))

    def write_summaries(self, step: int, values: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
        """Has no form in MLflow: left out, with one line."""
        del step, values, metadata
        self._summaries.report_once("write_summaries has no form in MLflow: not logged")

    def write_videos(self, step: int, videos: Mapping[str, Any]) -> None:
        """Has no form in MLflow: left out, with one line."""
        del step, videos
        self._summaries.report_once("write_videos has no form in MLflow: not logged")

    def write_audios(self, step: int, audios: Mapping[str, Any], *, sample_rate: int) -> None:
        """Has no form in MLflow: left out, with one line."""
        del step, audios, sample_rate
        self._summaries.report_once("write_audios has no form in MLflow: not logged")

    def write_pointcloud(
        self,
        step: int,
        point_clouds: Mapping[str, Any],
        *,
        point_colors: Mapping[str, Any] | None = None,
        configs: Mapping[str, Any] | None = None,
    ) -> None:
        """Has no form in MLflow: left out, with one line."""
        del step, point_clouds, point_colors, configs
        self._summaries.report_once("write_pointcloud has no form in MLflow: not logged")

    def flush(self) -> None:
        """Nothing is to be done: what was written outlives the process already."""

    def close(self) -> None:
        """Ends the run, if this writer has begun it."""
        self._framework.end()
