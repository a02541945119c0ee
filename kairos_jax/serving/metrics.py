"""What the server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
  """Counters of one server, in a registry of their own."""

  def __init__(self) -> None:
    self.registry = to = CollectorRegistry()
    self.requests = Counter("kairos_requests", "Requests by how they ended", ["outcome"], registry=to)
    self.seconds = Histogram(
      "kairos_request_seconds", "From a request's arrival to its answer", buckets=_SECONDS, registry=to
    )
    self.batch_seconds = Histogram(
      "kairos_batch_seconds", "Time of a batch on the device", buckets=_SECONDS, registry=to
    )
    self.batch_size = Histogram("kairos_batch_size", "Requests in a batch", buckets=_SIZES, registry=to)
    self.queue = Gauge("kairos_queue_length", "Requests that wait for the device", registry=to)
    self.sessions = Gauge("kairos_sessions", "Sessions that hold a memory", registry=to)
    self.connections = Gauge("kairos_connections", "Open connections", registry=to)

  def listen(self, host: str, port: int) -> None:
    """Serves them at http://host:port/metrics, from a thread of its own."""
    start_http_server(port, host, registry=self.registry)
