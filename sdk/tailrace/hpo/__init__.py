"""Hyper-parameter search by Optuna and Ray Tune, each trial a run of its own.

It stands on `tailrace.protocol` alone, so that it takes any tracker; Optuna and Ray are imported where they are used.
"""

from __future__ import annotations

from tailrace.hpo.result import HpoResult
from tailrace.hpo.runner import OptunaRunner

__all__ = ["HpoResult", "OptunaRunner"]
