# SPDX-License-Identifier: Apache-2.0
"""Export the registered metrics of a process to Prometheus, and serve them with its health.  CONTROL 4.6."""

# Labels are routes, statuses and codes, never sessions or agents: those would grow without end, and publish which agent
# works on what.  A proxy in front of the mint would publish the metrics as well, hence an address of their own.

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import ThreadingHTTPServer
from importlib.metadata import version
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, MetricsHandler, disable_created_metrics

from arx_caps.http.process import open_listener
from arx_verifier._native import COMPILED
from arx_verifier.metrics.export import SampleReader, Samples
from arx_verifier.metrics.families import BUILD, Family

READ_S: Final = 10.0  # the longest wait for the next bytes of a request
BACKLOG: Final = 16
AT_ONCE: Final = 16  # connections, each with a thread


class ProcessMetrics:
    """The metrics of one process.

    Args:
        part: The part of ARx that the process is.
        families: Its families; see ``metric_families``.

    Attributes:
        registry: The exported metrics.
    """

    def __init__(self, part: str, families: Sequence[Family]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series, which no alert needs
        # Not the library's global registry: several mints may run in one process.
        self.registry = CollectorRegistry()
        self._families = {family.name: family for family in families}
        self._left = dict(self._families)
        self.gauge(BUILD.name).labels(part, version("arx-caps"), "compiled" if COMPILED else "pure").set(1)

    def counter(self, name: str) -> Counter:
        """Return the counter of a family."""
        return Counter(*self._about(name), registry=self.registry)

    def gauge(self, name: str) -> Gauge:
        """Return the gauge of a family."""
        return Gauge(*self._about(name), registry=self.registry)

    def histogram(self, name: str) -> Histogram:
        """Return the histogram of a family."""
        return Histogram(*self._about(name), buckets=self._families[name].buckets, registry=self.registry)

    def read_rest(self, read: Callable[[], Samples]) -> None:
        """Export the other families by reading their samples at each scrape.

        Args:
            read: Yields them; a family without one is exported without a value.
        """
        self.registry.register(SampleReader(tuple(self._left.values()), read))

    def _about(self, name: str) -> tuple[str, str, tuple[str, ...]]:
        family = self._left.pop(name)
        return family.name, family.meaning, family.labels


class _Handler(MetricsHandler):
    """Answers ``/healthz`` and ``/readyz``, and any other path with the metrics."""

    timeout = READ_S
    why_not: Callable[[], Sequence[str]]

    def do_GET(self) -> None:  # noqa: N802 - its name in http.server
        path = self.path.partition("?")[0]
        if path not in ("/healthz", "/readyz"):
            super().do_GET()
            return
        why = list(self.why_not()) if path == "/readyz" else []
        body = json.dumps({"ready": not why, "because": why} if path == "/readyz" else {}).encode()
        self.send_response(503 if why else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    """Closes connections beyond ``AT_ONCE`` unanswered: a client that sends byte by byte keeps its thread."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._room = threading.Semaphore(AT_ONCE)
        super().__init__(*args, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # too many threads
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()


@contextlib.contextmanager
def metrics_served(
    part: str, address: str | None, registry: CollectorRegistry, why_not: Callable[[], Sequence[str]]
) -> Iterator[None]:
    """Serve a process's metrics and its health, in plain HTTP, while the block runs.

    Args:
        part: The part of ARx that the process is, for the error.
        address: Host and port to listen at; None serves nothing.
        registry: The metrics.
        why_not: Returns why the process is not ready, for ``/readyz``; empty if it is.

    Raises:
        SettingsError: It cannot listen there.
    """
    if address is None:
        yield
        return
    host, _, port = address.rpartition(":")
    listener = open_listener(f"{part}'s metrics", host.strip("[]"), int(port), BACKLOG)
    handler = type("_OwnHandler", (_Handler,), {"registry": registry, "why_not": staticmethod(why_not)})
    with _Server((host, int(port)), handler, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = listener
        thread = threading.Thread(target=server.serve_forever, name="arx-metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
