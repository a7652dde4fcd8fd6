# SPDX-License-Identifier: Apache-2.0
"""The mint's metrics for Prometheus.  CONTROL 4.6.

``server`` serves them at an address of their own.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from arx_caps.mint.context import MINT, VERSION, MintContext
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError
from arx_verifier.journal import used_in

# Labels are routes, statuses and codes, never sessions or agents: those would grow without end, and publish which agent
# works on what.  A proxy in front of the mint would publish the metrics as well, hence their own address.
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one mint.

    Attributes:
        registry: The exported metrics.

    Args:
        mint: The mint.
    """

    def __init__(self, mint: MintContext) -> None:
        # Not the library's global registry: several mints may run in one process.
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "arx_mint_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._refusals = Counter("arx_mint_refusals", "Refusals, by their code.", ("code",), registry=self.registry)
        self._seconds = Histogram(
            "arx_mint_request_seconds",
            "From a request's first byte at the application to its answer's last.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        # Looking up a child by its labels takes as long as counting.
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.registry.register(_State(mint))
        self.registry.register(_Record(mint))

    def count(self, method: str, route: str, status: int, code: str | None, seconds: float) -> None:
        """Count an answered request.

        Args:
            method: The HTTP method, one of ``METHODS`` or ``OTHER``.
            route: The template of the path.
            status: The answer's status.
            code: The code of a refusal, or None.
            seconds: The duration, s.
        """
        children = self._children.get((method, route, status))
        if children is None:
            children = self._requests.labels(method, route, str(status)), self._seconds.labels(route)
            self._children[method, route, status] = children
        children[0].inc()
        children[1].observe(seconds)
        if code is not None:
            self._refusals.labels(code).inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _State(Collector):
    """Gauges of the mint's state, read when they are collected."""

    def __init__(self, mint: MintContext) -> None:
        self._mint = mint

    def collect(self) -> Iterable[Metric]:
        mint = self._mint
        _, applied, age_ms = mint.epochs.view()
        # A view that has applied nothing yet is at -1.
        yield GaugeMetricFamily("arx_epoch", "Kills, freezes and thaws applied so far.", max(applied, 0))
        yield GaugeMetricFamily("arx_epoch_age_seconds", "Age of the view of the kill epoch.", age_ms / 1000)
        yield GaugeMetricFamily("arx_mint_ready", "1 when /readyz answers 200.", float(not mint.ready()))
        build = GaugeMetricFamily("arx_mint_build_info", "1, with the version of the mint.", labels=("version",))
        build.add_metric((VERSION,), 1.0)
        yield build
        halted = float(mint.log.publisher.halted is not None)
        yield GaugeMetricFamily("arx_log_halted", "1 when the database contradicts what was signed.", halted)
        watching = GaugeMetricFamily("arx_verifiers_watching", "Until when a process watches.", labels=("verifier",))
        try:
            for seen in mint.store.verifiers():
                if seen.watches_until is not None:
                    watching.add_metric((seen.id,), seen.watches_until / 1000)
        except ArxError:
            pass  # the store's own gauges show its outage
        yield watching
        # Without the database the gauges above are still served: they are needed most during an outage.
        try:
            sessions, tasks = mint.db.sessions.count_alive(), mint.db.tasks.count_alive()
            approvals = mint.db.approvals.count_waiting()
            waiting, size = mint.db.outbox.waiting(), mint.log.store.size()
            notices = mint.db.notifications.counts()
        except ArxError:
            return
        yield GaugeMetricFamily("arx_mint_sessions_open", "Sessions that are neither ended nor expired.", sessions)
        yield GaugeMetricFamily("arx_mint_tasks_open", "Tasks that are neither ended nor expired.", tasks)
        yield GaugeMetricFamily("arx_approvals_waiting", "Requests that wait for an operator's answer.", approvals)
        kept = GaugeMetricFamily("arx_notifications", "Notifications that no receiver has taken.", labels=("state",))
        for state, count in notices.items():
            kept.add_metric((state,), count)
        yield kept
        yield GaugeMetricFamily("arx_mint_outbox_events", "Events that wait for the audit log.", waiting)
        yield GaugeMetricFamily("arx_log_size", "Records of the audit log.", size)
        yield GaugeMetricFamily("arx_log_signed", "Records of it that are signed.", mint.log.publisher.size)

    def describe(self) -> Iterable[Metric]:
        return ()  # the mint has not started at registration: nothing is read before the first scrape


class _Record(Collector):
    """Counters of the decisions and kills that came into the audit log here."""

    def __init__(self, mint: MintContext) -> None:
        self._mint = mint

    def collect(self) -> Iterable[Metric]:
        mint, counts = self._mint, self._mint.log.store.counts
        decisions = CounterMetricFamily(
            "arx_decisions", "Decisions that came into the audit log here.", labels=("decision", "reason")
        )
        for labels, times in sorted(counts.decisions().items()):
            decisions.add_metric(labels, times)
        kills = CounterMetricFamily("arx_kills", "Kills, freezes and thaws that came into it here.", labels=("op",))
        for op, times in sorted(counts.changes().items()):
            kills.add_metric((op,), times)
        yield from (decisions, kills)
        used = used_in(mint.realm.journals_dir / MINT)
        yield GaugeMetricFamily("arx_journal_bytes", "What the journals of this mint's own decisions take.", used)
        age = GaugeMetricFamily("arx_checkpoint_age_seconds", "Since the audit log's last checkpoint was signed.")
        try:
            signed_ms = mint.log.store.signed_ms()
        except ArxError:
            return
        if signed_ms is not None:
            age.add_metric((), max(0, now_ms() - signed_ms) / 1000)
        yield age

    def describe(self) -> Iterable[Metric]:
        return ()
