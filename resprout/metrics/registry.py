"""The values of metrics, as Prometheus' client holds and writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from resprout.metrics.families import Family

_Wrapped = TypeVar("_Wrapped", bound=MetricWrapperBase)


class Registry:
    """Holds the values of some families.

    A gauge without a value is not exported. The client shows one without labels as 0, so that is
    made with its first value.

    Parameters
    ----------
    families
        Those that it may be told of.

    Examples
    --------
    >>> from resprout.metrics.families import DRIFT_ALARMS
    >>> registry = Registry([DRIFT_ALARMS])
    >>> registry.count(DRIFT_ALARMS, "input", by=2)
    >>> registry.render()[0].decode().splitlines()[-1].removeprefix(DRIFT_ALARMS.name)
    '{detector="input"} 2.0'
    """

    def __init__(self, families: Sequence[Family]) -> None:
        self._registry = CollectorRegistry()
        self._counters = {
            f: Counter(f.name, f.text, f.labels, registry=self._registry)
            for f in families
            if f.kind == "counter"
        }
        self._gauges = {
            f: Gauge(f.name, f.text, f.labels, registry=self._registry)
            for f in families
            if f.kind == "gauge" and f.labels
        }
        self._histograms = {
            f: Histogram(f.name, f.text, f.labels, buckets=f.buckets, registry=self._registry)
            for f in families
            if f.kind == "histogram"
        }

    def count(self, family: Family, *labels: str, by: float = 1) -> None:
        """Raise a counter; by 0 it is there from now on."""
        _child(self._counters[family], labels).inc(by)

    def histogram(self, family: Family, *labels: str) -> Histogram:
        """Return a histogram, which is there from now on."""
        return _child(self._histograms[family], labels)

    def show(self, family: Family, labels: tuple[str, ...], value: float | None) -> None:
        """Set a gauge, or take it away where there is no value."""
        if family not in self._gauges:
            self._gauges[family] = Gauge(family.name, family.text, registry=self._registry)
        gauge = self._gauges[family]
        if value is None:
            # Old versions of the client object where there was no value before either.
            with suppress(KeyError):
                gauge.remove(*labels)
        else:
            _child(gauge, labels).set(value)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Write all values down, and name the format.

        Parameters
        ----------
        accept
            The formats that the reader takes, as HTTP says it.
        """
        encode, content_type = choose_encoder(accept)
        return encode(_Collected(self._registry)), content_type


def _child(metric: _Wrapped, labels: tuple[str, ...]) -> _Wrapped:
    """Pick the one with these labels; one that knows no labels is its own only child."""
    return metric.labels(*labels) if labels else metric


class _Collected(Collector):
    """A registry without the times at which its counters were made: nobody asks for them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric
