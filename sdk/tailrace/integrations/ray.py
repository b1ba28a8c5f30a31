"""Ray Tune and Ray Train: `TailraceLoggerCallback`, and `ReportingTracker` for what trains inside of a worker.

Both are those of `tailrace.hpo.ray`. Inside of Ray Train: `ReportingTracker(ray.train.report)`.
"""

from __future__ import annotations

from tailrace.hpo.ray import ReportingTracker, TailraceLoggerCallback

__all__ = ["ReportingTracker", "TailraceLoggerCallback"]
