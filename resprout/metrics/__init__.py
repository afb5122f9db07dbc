"""What Prometheus sees: every metric, and how the workers' reports become its values.

Each process has a registry of its own, with the metrics of the workers that it runs.
"""

from __future__ import annotations

from resprout.metrics.families import DETECTORS, FAMILIES, LABELS, OUTCOMES, markdown
from resprout.metrics.process import Known, Metrics

__all__ = ["DETECTORS", "FAMILIES", "LABELS", "OUTCOMES", "Known", "Metrics", "markdown"]
