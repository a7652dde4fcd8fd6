# SPDX-License-Identifier: Apache-2.0
"""The mint's metrics for Prometheus.  CONTROL 4.6.

``server`` serves them at an address of their own.
"""

import contextlib
from collections import Counter as Counts
from collections.abc import Iterator
from itertools import product
from typing import Any, Final

from prometheus_client import Counter, Histogram, generate_latest

from arx_caps.database.engines import ERRORS
from arx_caps.http.certificates import CertificateWatch, CertifiedPlace
from arx_caps.http.metric_families import MINT as FAMILIES
from arx_caps.http.metrics import ProcessMetrics
from arx_caps.mint.api.routes.operations.status import StatusShown, status_of
from arx_caps.mint.context import MINT, MintContext
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError
from arx_verifier.journal.quota import used_in
from arx_verifier.metrics.export import Samples

# To Prometheus the rise from no series to 1 is none: what an alert waits for is shown before its first time.
_ALERTED: Final = tuple(product(("deny", "end"), ("audit_unavailable", "stale")))


class Metrics:
    """The metrics of one mint.

    Attributes:
        registry: The exported metrics.

    Args:
        mint: The mint.
    """

    def __init__(self, mint: MintContext) -> None:
        self._mint = mint
        own = ProcessMetrics("mint", FAMILIES)
        self.registry = own.registry
        self._requests, self._refusals = own.counter("arx_mint_requests"), own.counter("arx_mint_refusals")
        self._seconds = own.histogram("arx_mint_request_seconds")
        # Looking up a child by its labels takes as long as counting.
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._reports, self._confirms = own.counter("arx_kill_reports"), own.histogram("arx_kill_confirm_seconds")
        for status in ("confirmed", "partial", "unconfirmed"):  # as with _ALERTED
            self._reports.labels(status)
        mint.confirmations.on_settled = self._count_report
        realm = mint.realm
        urls = {"issuer": realm.issuer, "store": mint.store_url, "ledger": realm.ledger, "database": realm.database}
        self._certificates = CertificateWatch(
            place for what, url in urls.items() for place in CertifiedPlace.of_url(what, url)
        )
        own.read_rest(self._samples)

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

    def _count_report(self, status: str, took_ms: float) -> None:
        self._reports.labels(status).inc()
        if status == "confirmed":
            self._confirms.observe(took_ms / 1000)

    def _samples(self) -> Samples:
        # What an outage hides is left out; the rest is needed most then.
        mint, status = self._mint, status_of(self._mint)
        yield "arx_mint_ready", status.ready
        yield "arx_epoch", status.applied
        yield "arx_epoch_age_seconds", status.view_age_ms / 1000
        yield "arx_log_halted", status.log.halted is not None
        yield "arx_log_signed", status.log.signed
        signed = mint.log.publisher.signed
        yield "arx_witness_missing", signed is not None and mint.log.publisher.witnesses.missing(signed)
        yield "arx_journal_bytes", used_in(mint.realm.journals_dir / MINT)
        known = {
            "arx_mint_sessions_open": status.sessions,
            "arx_mint_tasks_open": status.tasks,
            "arx_approvals_waiting": status.approvals_waiting,
            "arx_log_size": status.log.size,
        }
        yield from ((name, value) for name, value in known.items() if value is not None)
        if status.log.signed_at is not None:
            yield "arx_checkpoint_age_seconds", max(0, now_ms() - status.log.signed_at) / 1000
        if status.store.error is None:
            yield from _of_verifiers(status)
        yield from self._counted()
        yield from self._certificates.samples()
        for read in (self._clock, self._in_database):
            with contextlib.suppress(ArxError):
                yield from read()

    def _clock(self) -> Iterator[tuple[Any, ...]]:
        began_ms, header = now_ms(), self._mint.store.header()
        yield "arx_clock_offset_seconds", (header.at_ms - (began_ms + now_ms()) / 2) / 1000

    def _counted(self) -> Iterator[tuple[Any, ...]]:
        counts = self._mint.log.store.counts
        for labels, times in sorted((dict.fromkeys(_ALERTED, 0) | counts.decisions()).items()):
            yield "arx_decisions", times, *labels
        for op, times in sorted((dict.fromkeys(("freeze", "kill", "thaw"), 0) | counts.changes()).items()):
            yield "arx_kills", times, op
        for database, times in sorted(ERRORS.items()):
            yield "arx_database_errors", times, database

    def _in_database(self) -> Iterator[tuple[Any, ...]]:
        db, now = self._mint.db, now_ms()
        yield "arx_mint_outbox_events", db.outbox.waiting()
        for state, count in db.notifications.counts().items():
            yield "arx_notifications", count, state
        roots, minting = self._mint.key_schedule.read_plan().roots, self._mint.key_schedule.minting()
        ages = [("root", root.created_at) for root in roots if root.name == minting]
        ages += [("signing", key.row.signs_from) for key in self._mint.signing_keys.view() if key.state == "signing"]
        for name, since_ms in ages:
            yield "arx_key_age_seconds", max(0, now - since_ms) / 1000, name
        for what, age_s in db.backups.ages()._asdict().items():
            if age_s is not None:
                yield "arx_backup_age_seconds", age_s, what


def _of_verifiers(status: StatusShown) -> Iterator[tuple[Any, ...]]:
    """Yield the samples of the store and the verifiers; relays and the mints themselves have no service."""
    yield "arx_store_history_info", 1, status.store.incarnation
    states, behind = Counts[tuple[str, str]](), Counts[str]()
    for one in status.verifiers:
        if one.watches_until is not None:
            yield "arx_verifiers_watching", one.watches_until / 1000, one.id
        if one.service is not None:
            states[one.service, one.state] += 1
            behind[one.service] += one.behind > 0 and one.state == "live"
    for service in sorted({*behind, *status.services_never_seen}):
        for state in ("live", "late", "gone"):
            yield "arx_verifiers", states[service, state], service, state
        yield "arx_verifiers_behind", behind[service], service
        yield "arx_service_unshipped", service in status.services_never_shipped, service
