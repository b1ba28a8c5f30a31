"""Tables in MLflow's JSON (pandas' `split` orientation) or in Parquet, one part per call.

A plain dictionary of lists is encoded on the caller by msgspec, in about 0.1 s per million cells, and pandas is not
even imported. Anything else goes through pandas, as in MLflow: copied on the caller, encoded in the background.
Cells of a DataFrame that are objects of their own (lists, dicts) are not copied: leave them alone after the call.

Numbers are written in full; MLflow's own tables are cut at ten digits.
"""

from __future__ import annotations

import posixpath
import sys
from typing import TYPE_CHECKING, Any, Final

from tailrace._artifacts.captured import BadArtifact, Frozen, Part, named
from tailrace._artifacts.images import capture_cell, is_image, pair
from tailrace_agent.mlflow.logged_tables import LOGGED_ARTIFACTS, logged_artifacts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["freeze_table"]

# The name stands in a tag as JSON, and MLflow refuses these characters as well.
_FORBIDDEN: Final = "\"',:[]{}"
_PLAIN: Final = (str, int, float, bool, type(None))
_DIGITS: Final = 15
"""Of a number: the most that pandas writes."""


def freeze_table(data: Any, artifact_file: str) -> Frozen:
    """A table, or some more rows of one.

    Args:
        data: A dictionary of columns (a dictionary of scalars is one row) or a `pandas.DataFrame`. Columns of images
            (Pillow's or MLflow's) become files of their own, as in MLflow.
        artifact_file: Where in the run's artifacts; must end in `.json` or `.parquet`. Later calls with the same name
            add rows.

    Returns:
        The part (with `append`), the files of images, and the tag by which MLflow knows of the table.

    Raises:
        BadArtifact: Another type or extension, a forbidden character in the name, a column that mixes images with
            other things, cells that JSON cannot have.

    Example:
        >>> freeze_table({"prompt": ["a", "b"], "score": [0.1, 0.9]}, "eval.json")
    """
    name = _table_name(artifact_file)
    images: list[Part] = []
    if isinstance(data, dict):
        columns = None if name.endswith(".parquet") else _columns_of(data)
        write = (
            _pandas_writer(_to_frame(data), name, images) if columns is None else _plain_writer(columns, name, images)
        )
    elif _is_frame(data):
        write = _pandas_writer(data, name, images)
    else:
        raise BadArtifact(f"data must be a pandas.DataFrame or a dictionary, not {type(data).__name__}")
    return Frozen((*images, Part(name, write, append=True)), {LOGGED_ARTIFACTS: logged_artifacts(None, name)})


def _table_name(artifact_file: str) -> str:
    name = named(artifact_file)
    for character in _FORBIDDEN:
        if character in name:
            raise BadArtifact(f"the name of a table must not hold {character!r}: {artifact_file!r}")
    if not name.endswith((".json", ".parquet")):
        raise BadArtifact(f"log_table writes .json and .parquet; write {artifact_file!r} yourself and use log_artifact")
    return name


def _is_frame(data: object) -> bool:
    frame = getattr(sys.modules.get("pandas"), "DataFrame", None)
    return frame is not None and isinstance(data, frame)


def _columns_of(data: dict[Any, Any]) -> dict[Any, Sequence[Any]] | None:
    """The columns of a plain dictionary as MLflow would see them; None leaves it to pandas."""
    values = list(data.values())
    if not all(isinstance(key, str) for key in data):
        return None
    if all(isinstance(value, (list, tuple)) for value in values):
        if len({len(value) for value in values}) <= 1:
            return data
        # Columns of different lengths are one row of lists, as in MLflow.
        return {key: [value] for key, value in data.items()}
    if all(isinstance(value, _PLAIN) for value in values):
        return {key: [value] for key, value in data.items()}
    return None


def _plain_writer(columns: dict[Any, Sequence[Any]], table: str, images: list[Part]) -> Callable[[Path], None]:
    import msgspec

    cells = [_with_images(key, column, table, images) for key, column in columns.items()]
    try:
        # On the caller: encoding is the copy, and there is no second one to keep.
        body = msgspec.json.encode({"columns": list(columns), "data": list(zip(*cells, strict=True))}, enc_hook=_cell)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadArtifact(f"log_table cannot write this as JSON: {error}") from error

    def write(path: Path) -> None:
        path.write_bytes(body)

    return write


def _cell(value: Any) -> Any:
    """A cell that msgspec does not know: NumPy's scalars and arrays, and tensors; else a string."""
    if hasattr(value, "tolist"):
        return value.tolist()
    # A subclass of a number, which msgspec does not take.
    if isinstance(value, (int, float)):
        return float(value)
    return str(value)


def _with_images(key: Any, column: Sequence[Any], table: str, images: list[Part]) -> Sequence[Any]:
    """The column with each image replaced by where it is found; the column itself when it has none."""
    found = [not isinstance(cell, _PLAIN) and is_image(cell) for cell in column]
    if not any(found):
        return column
    if not all(found):
        raise BadArtifact(f"Column `{key}` contains a mix of images and non-images")
    return [_image_cell(cell, table, images) for cell in column]


def _image_cell(image: Any, table: str, images: list[Part]) -> dict[str, str]:
    import uuid

    stem = posixpath.join("table_images", posixpath.splitext(table)[0], str(uuid.uuid4()))
    full, thumbnail = f"{stem}.png", f"{stem}.webp"
    images.extend(pair(capture_cell(image), full, thumbnail))
    return {"type": "image", "filepath": full, "compressed_filepath": thumbnail}


def _to_frame(data: dict[Any, Any]) -> Any:
    import pandas as pd

    try:
        return pd.DataFrame(data)
    except ValueError:
        # Scalars, or columns of different lengths: one row, as in MLflow.
        return pd.DataFrame([data])


def _pandas_writer(frame: Any, table: str, images: list[Part]) -> Callable[[Path], None]:
    copy = frame.copy()
    for position, kind in enumerate(frame.dtypes):
        if str(kind) == "object":
            cells = list(frame.iloc[:, position])
            replaced = _with_images(frame.columns[position], cells, table, images)
            if replaced is not cells:
                # By position: names of columns may come up twice.
                copy.isetitem(position, replaced)

    def write(path: Path) -> None:
        if table.endswith(".parquet"):
            copy.to_parquet(path, index=False)
            return
        # As MLflow reads it again; `iso`, since numbers would come back as numbers.
        copy.to_json(path, orient="split", index=False, date_format="iso", double_precision=_DIGITS)

    return write
