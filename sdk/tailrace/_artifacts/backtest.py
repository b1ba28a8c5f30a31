"""Back-tests: metrics under names that MLflow takes, and equity and trades as files.

Thread safety: all functions may be called from any thread.
"""

from __future__ import annotations

import importlib.util
import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal

from tailrace._artifacts.captured import BadArtifact, Frozen, Part, named
from tailrace._artifacts.dataframes import take, write_parquet

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["can_draw", "freeze_backtest", "metrics_of", "snake_case"]

# Both would be lost as no letters, and `Win Rate [%]` and `Win Rate` would be one name.
_SPELLED_OUT = (("%", " pct "), ("#", " n "))
# Where a capital begins a word: `maxDrawdown`, and the last one of several (`CAGRNet`).
_WORD_ENDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_WORD = re.compile(r"[\W_]+")


# A walk-forward run logs the same names hundreds of times.
@lru_cache(maxsize=4096)
def snake_case(name: str) -> str:
    """A name as `lower_case_words`; `%` becomes `pct`, and `#` becomes `n`.

    Args:
        name: `"Sharpe Ratio"`, `"maxDrawdown"`, `"Win Rate [%]"`, `"# Trades"`.

    Returns:
        The words; empty when there are none in it.

    Example:
        >>> snake_case("Win Rate [%]"), snake_case("maxDrawdown"), snake_case("CAGRNet")
        ('win_rate_pct', 'max_drawdown', 'cagr_net')
    """
    for sign, word in _SPELLED_OUT:
        name = name.replace(sign, word)
    return _NO_WORD.sub("_", _WORD_ENDS.sub("_", name)).strip("_").lower()


def metrics_of(name: str, metrics: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A back-test's metrics under `backtest/<name>/`, and the names that come up twice or have no word in them.

    Raises:
        BadArtifact: `name` is no path in the run, or `metrics` has no names.

    Example:
        >>> metrics_of("momentum", {"Sharpe Ratio": 1.4})
        ({'backtest/momentum/sharpe_ratio': 1.4}, [])
    """
    folder = _folder(name)
    try:
        entries = [(str(key), value) for key, value in metrics.items()]
    except AttributeError:
        raise BadArtifact(f"metrics must be a mapping, not {type(metrics).__name__}") from None
    found: dict[str, Any] = {}
    rejected = []
    for key, value in entries:
        word = snake_case(key)
        # Two spellings of one name would be two values at one step: the first one stays.
        if not word or f"{folder}/{word}" in found:
            rejected.append(key)
        else:
            found[f"{folder}/{word}"] = value
    return found, rejected


def freeze_backtest(name: str, part: Literal["equity", "trades"], data: Any, *, draw: bool = False) -> Frozen:
    """The equity or the trades of a back-test as Parquet.

    Args:
        name: Of the back-test.
        part: Which of the two.
        data: What `log_dataframe` takes; values without names for the equity.
        draw: Draw it as well, with its drawdown.

    Raises:
        BadArtifact: `name` is no path in the run, or the data is no table.
    """
    folder = _folder(name)
    try:
        taken = take(data, part)
    except BadArtifact as error:
        raise BadArtifact(f"{part}: {error}") from error
    parts = [Part(f"{folder}/{part}.parquet", partial(write_parquet, taken))]
    if draw:
        from tailrace._artifacts.equity_plot import draw_equity

        parts.append(Part(f"{folder}/{part}.png", partial(draw_equity, taken, name)))
    return Frozen(tuple(parts), {})


def can_draw() -> bool:
    """Whether matplotlib is installed; it is not imported."""
    return importlib.util.find_spec("matplotlib") is not None


def _folder(name: str) -> str:
    return f"backtest/{named(name)}"
