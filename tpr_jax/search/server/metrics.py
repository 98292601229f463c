"""The server's own metrics, in Prometheus' text format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
METHODS = ("GET", "HEAD", "POST")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, num_photos: Callable[[], int]):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        labels = ("route", "method", "status")
        self.requests = Counter("tpr_requests", "Requests answered", labels, registry=self.registry)
        self.seconds = self._histogram("tpr_request_seconds", "From request to response", "route")
        self.encode = self._histogram("tpr_encode_seconds", "To encode a query")
        self.search = self._histogram("tpr_search_seconds", "To rank the photos for a query")
        self.waiting = Gauge("tpr_searches_waiting", "Searches running or waiting", registry=self.registry)
        photos = Gauge("tpr_photos", "Photos in the index", registry=self.registry)
        photos.set_function(num_photos)

    def _histogram(self, name: str, description: str, *labels: str) -> Histogram:
        return Histogram(name, description, labels, buckets=BUCKETS, registry=self.registry)

    def record_response(self, scope: dict, status: int, seconds: float) -> None:
        """Counts a response.

        All unknown routes and methods share one label, so that clients cannot create new time series.
        """
        route = getattr(scope.get("route"), "path", "other") if status not in (404, 405) else "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def to_text(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
