"""Metrics of the service, in Prometheus' text format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")


class Metrics:
    """Counters of one app, in a separate registry.

    Args:
      passages: returns the number of passages in the index.
    """

    def __init__(self, passages: Callable[[], int]):
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "jaxretr_requests", "Requests answered", ["method", "route", "status"], registry=registry
        )
        self._latency = Histogram(
            "jaxretr_request_seconds",
            "Time from request head to response",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "jaxretr_batch_texts",
            "Texts encoded, or pairs reranked, together",
            ["kind"],
            buckets=[2**i for i in range(11)],
            registry=registry,
        )
        self._queue = Gauge(
            "jaxretr_queue_texts", "Texts waiting for the encoder, pairs for the reranker", ["kind"], registry=registry
        )
        self._encode = Histogram(
            "jaxretr_encode_seconds", "Time to encode or rerank a batch", ["kind"], buckets=_SECONDS, registry=registry
        )
        self._search = Histogram(
            "jaxretr_search_seconds", "Time to search a batch", buckets=_SECONDS, registry=registry
        )
        self._changes = Counter(
            "jaxretr_changed_passages",
            "Passages durably written, deleted, held, released",
            ["change"],
            registry=registry,
        )
        self.ready = Gauge("jaxretr_ready", "1 if warm and not shutting down, else 0", registry=registry)
        Gauge("jaxretr_index_passages", "Passages in the index", registry=registry).set_function(passages)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request and its latency.

        Args:
          method: HTTP method.
          route: path template, or "unmatched", so that clients cannot create labels.
          status: HTTP status.
          seconds: time until the response was complete.
        """
        self._requests.labels(method if method in _METHODS else "other", route, status).inc()
        self._latency.labels(route).observe(seconds)

    def queued(self, kind: str, texts: int) -> None:
        self._queue.labels(kind).set(texts)

    def encoded(self, kind: str, texts: int, seconds: float) -> None:
        self._batches.labels(kind).observe(texts)
        self._encode.labels(kind).observe(seconds)

    def searched(self, seconds: float) -> None:
        self._search.observe(seconds)

    def changed(self, change: str, passages: int) -> None:
        self._changes.labels(change).inc(passages)

    def text(self) -> bytes:
        return generate_latest(self._registry)
