"""What the name of a metric says: whether more or less of it is better, and whether it is the best of another one."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Final, Literal

__all__ = ["BEST", "BEST_STEP", "Direction", "bests_among", "direction_by_name", "is_of_another"]

BEST: Final = ".best"
BEST_STEP: Final = ".best_step"
"""What the names of the two metrics end with that tell a run's best value of another one, and its step."""

Direction = Literal["minimize", "maximize"]

_SMALLER: Final = re.compile(
    r".*(loss|error|entropy|deviance|divergence)|merror|err|.*ms(e|le|pe)|m?ape|smape|wmape|.*mae|l[12]|nll|nlpd|kld?"
    r"|perplexity|ppl|bpc|[wcpt]er|eer|f[pn]r|fid|ece|brier|hinge|huber|quantile|pinball|poisson|tweedie|chamfer|distance"
)
_LARGER: Final = re.compile(
    r"acc(uracy)?|.*auc|auroc|auprc|aucpr|roc|f(1|2|beta|score|measure).*|precision.*|recall.*|sensitivity|specificity|r2|d2"
    r"|.*score|.*iou|jaccard|dice|m?ap\d*|bleu\d*|rouge.*|meteor|cider|n?dcg.*|mrr|hits?|top\d*|psnr|ssim|mcc|matthews.*"
    r"|.*kappa|correct|corrcoef|pearson.*|spearman.*|kendall.*|r2score|explained|likelihood|elbo|rewards?|returns?|wins?"
)
_TURNS: Final = ("neg", "negative")


@functools.lru_cache(4096)
def direction_by_name(name: str) -> Direction | None:
    """The direction in which a metric gets better; None where the name does not say.

    An error goes before all else: a `brier_score` and an `error_rate` are better when smaller. `neg_` turns it around,
    as scikit-learn's `neg_log_loss` and a `neg_log_likelihood` have it.

    Example:
        >>> direction_by_name("val/logloss_round"), direction_by_name("val_top5"), direction_by_name("bias")
        ('minimize', 'maximize', None)
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    if "d2" in words:  # scikit-learn's: the share of an error that is explained
        found: Direction = "maximize"
    elif any(_SMALLER.fullmatch(word) for word in words):
        found = "minimize"
    elif any(_LARGER.fullmatch(word) for word in words):
        found = "maximize"
    else:
        return None
    if sum(word in _TURNS for word in words) % 2:
        return "maximize" if found == "minimize" else "minimize"
    return found


def is_of_another(key: str) -> bool:
    """Whether a metric tells the best value of another one, or its step.

    Example:
        >>> is_of_another("val/loss.best_step"), is_of_another("val/loss")
        (True, False)
    """
    return key.endswith((BEST, BEST_STEP))


def bests_among(values: Mapping[str, float]) -> dict[str, float]:
    """The best values that a run has, by the metric of which they are.

    Example:
        >>> bests_among({"loss": 0.3, "loss.best": 0.25, "loss.best_step": 7})
        {'loss': 0.25}
    """
    bests = {key: value for key, value in values.items() if key.endswith(BEST) and math.isfinite(value)}
    return {key.removesuffix(BEST): value for key, value in bests.items()}
