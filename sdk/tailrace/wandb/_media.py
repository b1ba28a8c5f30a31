"""wandb's data types, as artifacts of the run under `media/`: images, tables, histograms, pages, files.

Each is made of what it is given as that is at the moment. One that cannot be made is empty, with a warning, and is
logged as nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailrace.wandb._guard import VOICE, Absent, Partial, guarded, unsupported

if TYPE_CHECKING:
    from tailrace import Run

__all__ = [
    "Audio",
    "Histogram",
    "Html",
    "Image",
    "Media",
    "Object3D",
    "Plotly",
    "Table",
    "Video",
    "media_of",
    "path_of",
]

_MOST_BINS = 512


class Media(Partial):
    """What `wandb.log` takes beside numbers."""

    def put(self, run: Run, key: str, step: int) -> None:
        """Logs it to a run.

        Args:
            run: The run.
            key: Its name.
            step: wandb's step.
        """
        raise NotImplementedError


class Image(Media):
    """An image: a path, an array (height x width, x channels), a tensor (channels first), a PIL image or a figure.

    A figure is drawn at once.

    Args:
        data_or_path: The image.
        mode: PIL's mode, for an array.
        caption: A text, kept in a file beside it.
        **more: What else wandb takes; boxes and masks are not drawn.
    """

    def __init__(self, data_or_path: Any, mode: str | None = None, caption: str | None = None, **more: Any) -> None:
        self._path: str | Path | None = None
        self._picture: Any = None
        self._caption = caption
        self._take(data_or_path, mode)
        for name in ("boxes", "masks"):
            if more.get(name):
                unsupported(f"Image({name}=…)", "draw them into the image")

    def put(self, run: Run, key: str, step: int) -> None:
        if self._path is not None:
            run.log_artifact(self._path, f"media/images/{path_of(key)}_{step}")
        elif self._picture is not None:
            run.log_image(self._picture, key=_image_key(key), step=step)
        if self._caption:
            run.log_text(self._caption, f"media/images/{path_of(key)}_{step}.caption.txt")

    def picture(self) -> Any:
        """What `log_image` takes: an array with values that it knows, or an image of PIL's; None of what is empty."""
        if self._path is None:
            return self._picture
        from PIL import Image as Pillow

        return Pillow.open(self._path)

    def cell(self) -> Any:
        """What `log_table` takes for an image, or a word."""
        picture = self.picture()
        if picture is None:
            return type(self).__name__
        return picture if hasattr(picture, "getbands") else _as_pillow(picture)

    @guarded(called="Image")
    def _take(self, given: Any, mode: str | None) -> None:
        if isinstance(given, Image):
            self._path, self._picture, self._caption = given._path, given._picture, self._caption or given._caption
        elif isinstance(given, (str, Path)):
            self._path = given
        elif hasattr(given, "savefig"):  # matplotlib's, or the whole of pyplot
            self._picture = _drawn(given)
        else:
            self._picture = given.copy() if hasattr(given, "getbands") else _picture(given, mode)


class Figure(Media):
    """A figure of matplotlib, as it is logged without more.

    Args:
        figure: The figure.
    """

    def __init__(self, figure: Any) -> None:
        self._figure = figure

    def put(self, run: Run, key: str, step: int) -> None:
        run.log_figure(self._figure, f"media/images/{path_of(key)}_{step}.png")


class Histogram(Media):
    """A histogram, of values or as NumPy has made it; of values that are finite.

    Args:
        sequence: The values.
        np_histogram: Counts and edges, as `numpy.histogram` returns them.
        num_bins: How many bins, 512 at most.

    Attributes:
        histogram: How many values fall in each bin.
        bins: The edges: one more than there are bins.
    """

    @guarded()
    def __init__(self, sequence: Any = None, np_histogram: tuple[Any, Any] | None = None, num_bins: int = 64) -> None:
        self.histogram: list[Any] = []
        self.bins: list[float] = []
        import numpy as np

        if np_histogram is None:
            values = _array(sequence).ravel()
            values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
            values = values.astype(np.uint8) if values.dtype.kind == "b" else values
            np_histogram = np.histogram(values, bins=min(num_bins, _MOST_BINS))
        counts, edges = np_histogram
        self.histogram, self.bins = np.asarray(counts).tolist(), np.asarray(edges).tolist()

    def put(self, run: Run, key: str, step: int) -> None:
        if not self.bins:
            return
        content = {"_type": "histogram", "values": self.histogram, "bins": self.bins}
        run.log_dict(content, f"media/histograms/{path_of(key)}_{step}.json")


class Html(Media):
    """A page: its text, a file with it, or a path that ends in `.html`.

    Args:
        data: The page.
        inject: Not used: nothing is added to it.
    """

    @guarded()
    def __init__(self, data: Any, inject: bool = True, **_: Any) -> None:
        self.html = ""
        if hasattr(data, "read"):
            data = data.read()
        is_path = isinstance(data, Path) or (isinstance(data, str) and data.endswith(".html"))
        self.html = Path(data).read_text(encoding="utf-8") if is_path else str(data)

    def put(self, run: Run, key: str, step: int) -> None:
        run.log_text(self.html, f"media/html/{path_of(key)}_{step}.html")


class Table(Media):
    """A table.

    Args:
        columns: Names of the columns.
        data: Rows.
        rows: The same.
        dataframe: A pandas DataFrame instead.
        **_: What else wandb takes.

    Attributes:
        columns: Names.
        data: Rows.

    Example:
        >>> table = wandb.Table(columns=["prompt", "score"])
        >>> table.add_data("a", 0.5)
        >>> wandb.log({"samples": table})
    """

    @guarded()
    def __init__(
        self,
        columns: Sequence[Any] | None = None,
        data: Any = None,
        rows: Any = None,
        dataframe: Any = None,
        **_: Any,
    ) -> None:
        self.columns: list[str] = []
        self.data: list[list[Any]] = []
        given = data if data is not None else rows
        if dataframe is None and hasattr(given, "columns"):
            dataframe, given = given, None
        if dataframe is not None:
            self.columns = [str(name) for name in dataframe.columns]
            self.data = dataframe.to_numpy(dtype=object).tolist()
            return
        self.data = [list(row) for row in (given if given is not None else [])]
        widest = max(map(len, self.data), default=0)
        self.columns = [str(name) for name in (columns if columns is not None else range(widest))] or ["Input"]

    def add_data(self, *data: Any) -> None:
        """Adds a row."""
        self.data.append(list(data))

    def add_row(self, *row: Any) -> None:
        """Adds a row."""
        self.add_data(*row)

    @guarded()
    def add_column(self, name: str, data: Iterable[Any], optional: bool = False) -> None:
        """Adds a column, of as many values as there are rows."""
        values = list(data)
        if not self.data:
            self.columns, self.data = [], [[] for _ in values]
        if len(values) != len(self.data):
            raise ValueError(f"column {name!r} has {len(values)} values, and there are {len(self.data)} rows")
        self.columns.append(name)
        for row, value in zip(self.data, values, strict=True):
            row.append(value)

    @guarded(list)
    def get_column(self, name: str, convert_to: str | None = None) -> Any:
        """The values of a column; as an array with `convert_to="numpy"`."""
        values = [row[self.columns.index(name)] for row in self.data]
        return _array(values) if convert_to == "numpy" else values

    def get_index(self) -> list[int]:
        """The numbers of its rows."""
        return list(range(len(self.data)))

    def iterrows(self) -> Iterator[tuple[int, list[Any]]]:
        """The number of each row, and the row."""
        yield from enumerate(self.data)

    def get_dataframe(self) -> Any:
        """As a DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.data, columns=self.columns)

    def cells(self) -> dict[str, list[Any]]:
        """Its columns as `log_table` takes them: a row that is too short has nulls, of one too long the rest is cut."""
        width, cells = len(self.columns), dict[str, list[Any]]()
        if any(len(row) > width for row in self.data):
            VOICE.warn(f"wandb.Table: rows have more cells than the {width} columns: the rest is cut")
        for index, column in enumerate(self.columns):
            name = column if column not in cells else f"{column}_{index}"
            cells[name] = _column([row[index] if index < len(row) else None for row in self.data])
        return cells

    def put(self, run: Run, key: str, step: int) -> None:
        run.log_table(self.cells(), f"media/tables/{path_of(key)}_{step}.json")


class Plotly(Media):
    """A figure of Plotly.

    Args:
        val: The figure.
    """

    def __init__(self, val: Any, **_: Any) -> None:
        self._figure = val

    def put(self, run: Run, key: str, step: int) -> None:
        run.log_figure(self._figure, f"media/plots/{path_of(key)}_{step}.html")


class _File(Media):
    """A file of a kind that MLflow only keeps."""

    _folder = "files"

    def __init__(self, data_or_path: Any, *_: Any, **__: Any) -> None:
        self._path = data_or_path if isinstance(data_or_path, (str, Path)) else None
        if self._path is None:
            unsupported(f"{type(self).__name__} of anything but a file", "write it to a file, and give its path")

    def put(self, run: Run, key: str, step: int) -> None:
        if self._path is not None:
            run.log_artifact(self._path, f"media/{self._folder}/{path_of(key)}_{step}")


class Audio(_File):
    """A sound, by its file."""

    _folder = "audio"


class Video(_File):
    """A film, by its file."""

    _folder = "videos"


class Object3D(_File):
    """A body or a cloud of points, by its file."""

    _folder = "object3D"


def media_of(value: Any) -> Media | None:
    """A value as wandb would show it, where it is no number; None where it is one, or nothing that is known."""
    if isinstance(value, (Media, Absent)):
        return value if isinstance(value, Media) else None
    drawn = _figure_or_image(value)
    if drawn is not None:
        return drawn
    shape = getattr(value, "shape", None)
    if hasattr(value, "columns") and shape is not None:
        return Table(dataframe=value)
    if shape is not None and any(size != 1 for size in shape):
        return Histogram(value)
    return None


def _figure_or_image(value: Any) -> Media | None:
    if callable(getattr(value, "gcf", None)):  # pyplot itself, as in `wandb.log({"chart": plt})`
        return Figure(value.gcf())
    if hasattr(value, "savefig"):
        return Figure(value)
    if hasattr(value, "getbands"):  # an image of PIL's
        return Image(value)
    return Plotly(value) if type(value).__module__.startswith("plotly.") else None


def _array(value: Any) -> Any:
    import numpy as np

    detach = getattr(value, "detach", None)
    if callable(detach):  # PyTorch's; wandb waits for the device, too
        value = detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
        return value.numpy()
    return np.asarray(value)


def _picture(data: Any, mode: str | None) -> Any:
    import numpy as np

    array = np.array(_array(data))  # a copy: the program may go on with its own
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{type(data).__name__} is no image")
    if callable(getattr(data, "detach", None)) and array.ndim == 3:
        array = array.transpose(1, 2, 0)  # PyTorch has the channels first
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if np.issubdtype(array.dtype, np.floating):
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        if low < 0 and low >= -1 and high <= 1:
            array = (array + 1) / 2
        elif high > 1 or low < 0:
            array = np.clip(array, 0, 255).astype(np.uint8)
    if mode is None:
        return array
    return _as_pillow(array).convert(mode)


def _as_pillow(array: Any) -> Any:
    import numpy as np
    from PIL import Image as Pillow

    if array.dtype != np.uint8:
        array = (array * 255).astype(np.uint8) if array.dtype.kind in "fb" else array.astype(np.uint8)
    return Pillow.fromarray(array)


def _drawn(figure: Any) -> Any:
    """A figure as an image: it may be drawn anew, or closed, before anybody looks."""
    import io

    from PIL import Image as Pillow

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Pillow.open(buffer).copy()


def _column(values: list[Any]) -> list[Any]:
    """A column's cells; MLflow has images only where all cells are such."""
    if values and all(isinstance(value, Image) for value in values):
        return [value.cell() for value in values]
    return [_cell(value) for value in values]


def _cell(value: Any) -> Any:
    if isinstance(value, Html):
        return value.html
    if isinstance(value, Media):
        return type(value).__name__
    return value


def _image_key(key: str) -> str:
    """A metric's name as MLflow's UI takes it for a series of images."""
    return re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", path_of(key))


def path_of(key: str) -> str:
    """A metric's name as a path that MLflow takes for an artifact."""
    parts = [re.sub(r"[^\w.\- ]+", "_", part).strip(". ") for part in key.split("/")]
    return "/".join(part for part in parts if part) or "media"
