"""What summary writers write beside scalars, in MLflow's forms: images by step, texts and histograms as tables.

What is on a device is waited for here, as those writers do; scalars are not. What cannot be written is reported once,
and nothing is raised into training.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

from tailrace.training.runs.run_log import warn
from tailrace_agent.errors import CallError

if TYPE_CHECKING:
    import numpy as np

    from tailrace.integrations.framework_run import FrameworkRun

__all__ = ["Summaries"]

P = ParamSpec("P")

_NOT_IN_NAMES: Final = str.maketrans(dict.fromkeys("\"',:[]{}", "_"))
"""Of a table; MLflow refuses them."""
_BUCKETS: Final = 64
_COLUMNS: Final = 8


def _harmless(call: Callable[Concatenate[Summaries, str, P], None]) -> Callable[Concatenate[Summaries, str, P], None]:
    @functools.wraps(call)
    def reporting(summaries: Summaries, tag: str, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            call(summaries, tag, *args, **kwargs)
        except CallError:  # under `strict`
            raise
        except Exception as error:  # noqa: BLE001 - a picture that cannot be drawn is no reason to stop training
            summaries.report_once(f"{call.__name__} {tag!r} was not logged: {error}")

    return reporting


class Summaries:
    """Images, texts, histograms and figures of a run.

    Args:
        framework: Whose run.

    Thread safety: any thread.

    Example:
        >>> Summaries(framework).text("notes", "no augmentation", step=3)
    """

    def __init__(self, framework: FrameworkRun) -> None:
        self._framework = framework
        self._reported: set[str] = set()

    def report_once(self, text: str) -> None:
        """Says what is not logged."""
        if text not in self._reported:
            self._reported.add(text)
            warn(text)

    @_harmless
    def image(self, tag: str, image: Any, step: int | None, dataformats: str) -> None:
        """One image, or several as one grid; floats are of 0 to 1, and cut there."""
        key = "".join(letter if (letter.isascii() and letter.isalnum()) or letter in "_-./ " else "_" for letter in tag)
        self._framework.call("log_image", _as_picture(_as_array(image), dataformats.upper()), key=key, step=step)

    @_harmless
    def text(self, tag: str, text: str, step: int | None) -> None:
        """A text, as one row of the table `text/<tag>.json`."""
        self._row("text", tag, {"step": step, "text": str(text)})

    @_harmless
    def histogram(self, tag: str, values: Any, step: int | None, bins: Any = None) -> None:
        """The counts of some values, as one row of the table `histograms/<tag>.json`."""
        import numpy as np

        array = _as_array(values).astype("float64").ravel()
        finite = array[np.isfinite(array)]
        counts, edges = np.histogram(finite, bins=_BUCKETS if bins is None else bins)
        known = {
            "values": int(array.size),
            "finite": int(finite.size),
            "mean": float(finite.mean()) if finite.size else None,
            "std": float(finite.std()) if finite.size else None,
        }
        row = {"step": step, **known, "counts": counts.tolist(), "edges": edges.tolist()}
        self._row("histograms", tag, row)

    @_harmless
    def figure(self, tag: str, figure: Any, step: int | None) -> None:
        """A figure, as `figures/<tag>/<step>.png`."""
        self._framework.run.log_figure(figure, f"figures/{tag}/{step or 0:08d}.png")

    def _row(self, folder: str, tag: str, row: dict[str, Any]) -> None:
        columns = {name: [value] for name, value in row.items()}
        self._framework.call("log_table", columns, f"{folder}/{tag.translate(_NOT_IN_NAMES)}.json")


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    """A tensor of any library as an array of NumPy's; it is waited for."""
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) in ("torch.bfloat16", "torch.float16") else value
    return np.asarray(value)


def _as_picture(array: Any, order: str) -> Any:
    """Height x width, or height x width x channels, of an array with these axes.

    Raises:
        ValueError: It has others.
    """
    import numpy as np

    if len(order) != array.ndim or not set("HW") <= set(order) <= set("NHWC"):
        raise ValueError(f"an array of shape {array.shape} has no axes {order!r}")
    array = np.transpose(array, [order.index(axis) for axis in "NHWC" if axis in order])
    if "N" in order:
        array = _grid(array)
    # Floats: what is beyond is cut, and does not change the rest.
    return np.clip(np.nan_to_num(array), 0.0, 1.0) if array.dtype.kind == "f" else array


def _grid(images: Any) -> Any:
    """Several images beside and below one another."""
    import numpy as np

    number, height, width = images.shape[:3]
    columns = min(number, _COLUMNS)
    rows = math.ceil(number / columns)
    grid = np.zeros((rows * height, columns * width, *images.shape[3:]), images.dtype)
    for n, image in enumerate(images):
        top, left = n // columns * height, n % columns * width
        grid[top : top + height, left : left + width] = image
    return grid
