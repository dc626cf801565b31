"""What Prometheus reads of the HTTP API."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from synthesis.queue import SynthesisQueue

_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)


class ApiMetrics:
    """Counts of one server, in a registry of their own. The status of a client that left is 499.

    `num_open` is the number of requests for speech whose answer is not complete.
    """

    def __init__(self, queue: SynthesisQueue) -> None:
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter(
            "vallet_speech_requests", "requests for speech, by HTTP status", ["status"], registry=own
        )
        self.seconds = Histogram(
            "vallet_request_seconds", "time of a request for speech", buckets=_BUCKETS, registry=own
        )
        self.first_audio_seconds = Histogram(
            "vallet_first_audio_seconds", "time to the first audio of a request", buckets=_BUCKETS, registry=own
        )
        self.audio_seconds = Counter("vallet_audio_seconds", "speech that was sent", registry=own)
        self.num_open = 0
        Gauge("vallet_queued_requests", "requests that are not done, the page's too", registry=own).set_function(
            lambda: len(queue)
        )
