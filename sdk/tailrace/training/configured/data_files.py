"""Tables from CSV and Parquet files: which column is the target, and which are features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailrace.training.nearest_name import advice
from tailrace_agent.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["check_numbers", "read_table", "target_and_features"]

_ENDINGS: Final = (".csv", ".csv.gz", ".csv.zip", ".csv.xz", ".tsv", ".parquet", ".pq")


def read_table(path: Path, where: str) -> Any:
    """A file as a pandas frame.

    Args:
        path: A `.csv` (packed or not), `.tsv` or `.parquet` file.
        where: How to call the place in a message.

    Raises:
        SettingsError: It is not there, is no such file, or cannot be read.
    """
    if not path.name.lower().endswith(_ENDINGS):
        raise SettingsError(f"{where}: {path} is no {', '.join(_ENDINGS[:1])}, .tsv or .parquet file")
    if not path.is_file():
        folder = path.parent
        near = [each.name for each in folder.iterdir() if each.is_file()] if folder.is_dir() else []
        hint = f"; {advice(path.name, near)}" if near else f", nor a directory {folder}" if not folder.is_dir() else ""
        raise SettingsError(f"{where}: there is no file {path}{hint}")
    try:
        import pandas as pd
    except ImportError:
        raise SettingsError(f"{where}: pandas reads {path.name}, and is not installed: pip install pandas") from None
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        return pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
    except (OSError, ValueError, ImportError) as error:  # damaged, empty, or a reader that is not installed
        raise SettingsError(f"{where}: {path} cannot be read: {' '.join(str(error).split())}") from None


def target_and_features(
    frame: Any, target: str, features: Sequence[str] | None, leave_out: Sequence[str], where: str
) -> tuple[Any, Any]:
    """Features and targets of a table.

    Args:
        frame: A pandas frame.
        target: The target's column.
        features: The columns to learn from; all others by default.
        leave_out: Columns that are none of them.
        where: How to call the place in a message.

    Returns:
        A frame and a Series.

    Raises:
        SettingsError: A column is missing, and the nearest is named; or none is left to learn from, or one holds texts.
    """
    columns = [str(name) for name in frame.columns]
    frame = frame.set_axis(columns, axis=1)
    for key, names in (("target_column", [target]), ("features", features or []), ("leave_out", leave_out)):
        for name in names:
            if str(name) not in columns:
                raise SettingsError(f"{where}.{key}: the data have no column {name!r}; {advice(str(name), columns)}")
    chosen = [str(name) for name in features] if features is not None else columns
    chosen = [name for name in chosen if name != target and name not in leave_out]
    if not chosen:
        raise SettingsError(f"{where}: the data have no column to learn from but {target!r}")
    return frame[chosen], frame[target]


def check_numbers(features: Any, where: str) -> None:
    """What estimators learn from.

    Raises:
        SettingsError: A column is no numbers.
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    for name, dtype in features.dtypes.items() if len(features) else ():
        if not (is_numeric_dtype(dtype) or is_bool_dtype(dtype)):
            raise SettingsError(
                f"{where}: column {name!r} holds {features[name].iloc[0]!r} and the like ({dtype}), and models take "
                f"numbers: write them as numbers, or leave the column out (leave_out: [{name}])"
            )
