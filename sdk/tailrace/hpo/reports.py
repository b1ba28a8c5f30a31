"""What a search leaves in its parent run: the table of its trials, and Optuna's pictures, where it can draw them."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tailrace.hpo.studies import count
from tailrace.hpo.trials import ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from optuna import Study

    from tailrace.protocol import TrackedRun

__all__ = ["log_reports", "trials_table"]

_FIGURES: Final = {
    "hpo_optimization_history.html": "plot_optimization_history",
    "hpo_param_importances.html": "plot_param_importances",
    "hpo_parallel_coordinate.html": "plot_parallel_coordinate",
}
_WITH_VALUES: Final = 2
"""Completed trials that the last two need."""


def trials_table(study: Study) -> pd.DataFrame:
    """A row for each trial: number, value, times, `params_…`, `user_attrs_…`, state."""
    table = study.trials_dataframe()
    return table.drop(columns=f"user_attrs_{ATTRIBUTE}", errors="ignore")


def log_reports(study: Study, run: TrackedRun) -> None:
    """Logs all of it as artifacts. What Optuna cannot draw of this study is left out, with a word."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "hpo_trials_history.csv")
        trials_table(study).to_csv(path, index=False)
        run.log_artifact(path)
        for path in _drawn(study, Path(directory)):
            run.log_artifact(path)


def _drawn(study: Study, directory: Path) -> Iterator[Path]:
    """The pictures, each a page that needs no network: 5 MB, nearly all of it plotly."""
    try:
        import optuna.visualization as drawn

        drawn.is_available()
        import plotly  # noqa: F401
    except ImportError:
        warnings.warn("no pictures of the search without plotly: pip install 'tailrace[hpo]'", stacklevel=2)
        return
    completed = count(study).completed
    for name, function in _FIGURES.items():
        if completed < (_WITH_VALUES if function != "plot_optimization_history" else 1):
            continue
        figure = _figure(getattr(drawn, function), study, name)
        if figure is not None:
            path = directory / name
            figure.write_html(path, include_plotlyjs=True, auto_open=False)
            yield path


def _figure(draw: Any, study: Study, name: str) -> Any:
    import logging

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return draw(study)
    except (ValueError, RuntimeError, ArithmeticError, ImportError) as error:  # a parameter that was never varied
        logging.getLogger("tailrace").info("no %s: %s", name, error)
        return None
