"""Prometheus metrics: of requests as they end, of the engine when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from edgec.runtime.results import GenerationResult

__all__ = ["Metrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
PATHS = {
    "/", "/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions",
    "/tokenize", "/detokenize",
}  # fmt: skip

# A second series for each counter, of interest to few.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(name, what, labels, registry=self.registry)

        def histogram(name: str, what: str) -> Histogram:
            return Histogram(name, what, registry=self.registry, buckets=SECONDS)

        self._requests = counter("edgec_requests", "HTTP requests", "path", "status")
        self._seconds = histogram("edgec_request_seconds", "Whole HTTP requests")
        self._first = histogram("edgec_time_to_first_token_seconds", "From the call to a token")
        self._prompt = counter("edgec_prompt_tokens", "Tokens of prompts, cached ones too")
        self._cached = counter("edgec_cached_tokens", "Tokens of prompts that were in a state")
        self._completion = counter("edgec_completion_tokens", "Tokens generated")
        self._prompt_seconds = counter("edgec_prompt_seconds", "Computing prompts")
        self._decode_seconds = counter("edgec_decode_seconds", "Generating")

    def finished(self, path: str, status: int, seconds: float) -> None:
        """Counts an HTTP request."""
        # Paths come from strangers; each label value is kept for ever.
        self._requests.labels(path if path in PATHS else "other", str(status)).inc()
        self._seconds.observe(seconds)

    def generated(self, result: GenerationResult) -> None:
        """Counts a generation."""
        usage, timings = result.usage, result.timings
        self._first.observe(timings.time_to_first_token_ms / 1e3)
        self._prompt.inc(usage.prompt_tokens)
        self._cached.inc(usage.cached_tokens)
        self._completion.inc(usage.completion_tokens)
        self._prompt_seconds.inc(timings.prompt_ms / 1e3)
        self._decode_seconds.inc(timings.decode_ms / 1e3)

    def add_engine(self, read: Callable[[], Iterable[Metric]]) -> None:
        """Adds metrics that are read when asked for."""

        class Reader(Collector):
            def collect(self) -> Iterable[Metric]:
                return read()

        self.registry.register(Reader())

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)


def gauge(name: str, what: str, values: Mapping[str, float] | float, label: str = "") -> Metric:
    """A value now, or several by a label."""
    family = GaugeMetricFamily(name, what, labels=[label] if label else [])
    for key, value in values.items() if isinstance(values, Mapping) else [("", values)]:
        family.add_metric([key] if label else [], value)
    return family


def total(name: str, what: str, values: Mapping[str, float] | float, label: str = "") -> Metric:
    """A number that only grows, or several by a label."""
    family = CounterMetricFamily(name, what, labels=[label] if label else [])
    for key, value in values.items() if isinstance(values, Mapping) else [("", values)]:
        family.add_metric([key] if label else [], value)
    return family
