"""The server's metrics, in the format of Prometheus."""

from trialrun.extras import import_extra

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        """Create the metrics.

        Raises:
            InvalidParameterError: prometheus-client is not installed.
        """
        client = import_extra("prometheus_client", "serve", needed_by="`trialrun serve`")
        self._client = client
        self._registry = registry = client.CollectorRegistry()
        client.ProcessCollector(registry=registry)
        prefix = "trialrun_"
        self.requests = client.Counter(
            prefix + "requests", "Responses.", ("path", "status"), registry=registry
        )
        self.seconds = client.Histogram(
            prefix + "request_seconds",
            "Time from a request's headers to its response.",
            ("path",),
            registry=registry,
            buckets=_SECONDS,
        )
        self.images = client.Counter(
            prefix + "images",
            "Images by outcome: scored or refused.",
            ("outcome",),
            registry=registry,
        )
        self.batch_images = client.Histogram(
            prefix + "batch_images", "Images per batch.", registry=registry, buckets=_SIZES
        )
        self.batch_seconds = client.Histogram(
            prefix + "batch_seconds",
            "Time to compute a batch.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.waiting = client.Gauge(
            prefix + "waiting_images", "Images that wait or are computed.", registry=registry
        )
        self.reloads = client.Counter(
            prefix + "reloads",
            "Versions loaded for a moved alias.",
            ("outcome",),
            registry=registry,
        )
        self.model = client.Gauge(
            prefix + "model_info",
            "1 for the model that is served.",
            ("model", "version", "engine"),
            registry=registry,
        )

    def set_model(self, name: str, version: str, engine: str) -> None:
        """Record which model is served."""
        self.model.clear()
        self.model.labels(name, version, engine).set(1)

    def format_text(self) -> tuple[bytes, str]:
        """Return all metrics and their content type."""
        text: bytes = self._client.generate_latest(self._registry)
        return text, str(self._client.CONTENT_TYPE_LATEST)
