# SPDX-License-Identifier: Apache-2.0
"""Whether the store's history can continue, or a new one must begin. SPEC 10.11.

Failover of replicas is in ``arx_caps.revocation.failover``.
"""

import logging
from typing import Final, NamedTuple

from arx_caps.audit.ingest.entries import EventRecord, read_event
from arx_caps.mint.audit.feeds import KILLS
from arx_caps.mint.audit.log import AuditLog
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.operations.epoch import HighWater
from arx_caps.revocation.failover import FORGOTTEN, Topology
from arx_caps.revocation.failover import attest as attest_server
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import Ahead, Header, StoreEntry
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.revocation.history import UNKNOWN, HistoryPlace, new_incarnation

MINT: Final = "mint"
ATTESTING: Final = 1  # of the lock with which one mint at a time attests
BEGUN: Final = "epoch.begun"
ROTATED: Final = "epoch.rotated"
REPORTS: Final = 3  # histories that verifiers' reports may end in REPORTS_MS
REPORTS_MS: Final = 60 * 60 * 1000
MOST_AHEAD: Final = 1_000_000  # how far a verifier's report may move the sequence
ANOTHER: Final = "the store has lost kills and given their numbers to others"

_log = logging.getLogger(__name__)


class Known(NamedTuple):
    """What the mint knows of the kill sequence without the store.

    Attributes:
        mark: The database's high-water mark, or None.
        view: The last position that this mint's own view has applied.
        logged: The last entry of the mark's history in the audit log, or None.
        seq: The highest number of all three, of any history.
    """

    mark: HighWater | None
    view: HistoryPlace
    logged: EventRecord | None
    seq: int


# A store that was restored from a backup does not know it. So its position in the kill sequence is compared with every
# other copy: the high-water mark, this mint's own view, the audit log, and what verifiers report in their probes. A new
# history begins after the highest of them, so that no number is given twice. A report proves nothing: a stolen verifier
# login could end history after history. So reports may end three an hour, and move the sequence by a bounded distance.
class StoreHistory:
    """Attests the history of the revocation store.

    Args:
        realm: The realm.
        db: The mint's database, with the high-water mark.
        store: The store.
        topology: Its replicas, and whether a failover begins a new history.
        epochs: The mint's own view of the kill epoch.
        log: The audit log, with the entries of the store's log.
    """

    def __init__(
        self,
        realm: Realm,
        db: MintDatabase,
        store: RevocationStore,
        topology: Topology,
        epochs: Epochs,
        log: AuditLog,
    ) -> None:
        self._realm, self._db, self._store, self._topology = realm, db, store, topology
        self._epochs, self._log = epochs, log

    def attest(self) -> None:
        """Compare the store with the other copies of its history; begin a new one if it lost kills.

        Raises:
            StoreError: Store or database did not answer.
        """
        # Alone: two mints that find the same loss would each end the other one's new history.
        with self._db.alone(ATTESTING):
            self._attest()

    def believed(self) -> Ahead | None:
        """Return the report of a verifier that is ahead of the store, or None if it may not count.

        Raises:
            StoreError: Store or database did not answer.
        """
        claim = self._store.ahead()
        if claim is None:
            return None
        # Counted by recorded events, so that a restart or a second mint gives no further ones.
        ended = self._db.outbox.since(now_ms() - REPORTS_MS, (ROTATED,))
        return claim if sum("verifier" in event.facts for event in ended) < REPORTS else None

    def _attest(self) -> None:
        realm, ttl = self._realm.name, self._realm.max_ttl_ms
        # Before the store is asked: the store may be ahead of what is known, and never the other way round.
        known = self._known()
        mark, seq, claimed_by = known.mark, known.seq, None
        why: str | None
        self._store.load_functions()
        fresh = new_incarnation(mark.incarnation if mark is not None else "")
        header = self._store.init(fresh, max_ttl_ms=ttl, seq=seq)
        if header.incarnation == fresh:
            kind, why = BEGUN, "the store was empty" if mark is not None else "the realm is new"
        else:
            kind, why = ROTATED, self._why_end(header, known)
            claim = self.believed() if why is None else None
            if claim is not None:
                why, claimed_by = f"{FORGOTTEN}: a verifier has applied number {claim.seq}", claim.verifier
                seq = max(seq, min(claim.seq, header.seq + MOST_AHEAD))
            if why is not None:
                header = self._store.rotate(seq_at_least=seq, max_ttl_ms=ttl).header
        header, failed_over = attest_server(
            self._store, self._topology, seq_at_least=max(header.seq, seq), max_ttl_ms=ttl
        )
        if failed_over is not None:
            kind, why = ROTATED, failed_over
        self._store.remember(header.place)
        if why is None:
            return
        level = logging.INFO if mark is None else logging.WARNING
        _log.log(level, "realm %s: a new history of the kill epoch (%s): every older token is revoked", realm, why)
        facts = {"incarnation": header.incarnation, "seq": header.seq, "why": why} | (
            {"verifier": claimed_by} if claimed_by else {}
        )
        self._db.epoch.raise_high_water(
            realm, HighWater(*header.place, ttl), Event.of(kind, MINT, **facts), begins=True
        )

    def _known(self) -> Known:
        mark = self._db.epoch.high_water(self._realm.name)
        incarnation, applied, _ = self._epochs.view()
        view = HistoryPlace(incarnation, applied, self._epochs.chain_at(incarnation, applied))
        logged, last = None, 0
        try:
            last = self._log.store.last_of(KILLS)
            logged = _last_logged(self._log, mark.incarnation) if mark is not None else None
        except ArxError as error:  # without the log's database, the other copies still count
            _log.error("realm %s: the store is not compared with the audit log: %s", self._realm.name, error)
        numbers = (last, mark.seq if mark is not None else 0, logged.number if logged is not None else 0)
        return Known(mark, view, logged, max(view.seq, *numbers))

    def _why_end(self, header: Header, known: Known) -> str | None:
        """Return why the store may lack a kill, or None if it has every one."""
        mark, logged = known.mark, known.logged
        if mark is None or header.incarnation != mark.incarnation:
            return "the store's history is unknown here"
        for place in (known.view, HistoryPlace(mark.incarnation, mark.seq, mark.chain)):
            if place.incarnation == header.incarnation and (why := self._why_another(header, place)):
                return why
        if logged is not None and logged.number > header.seq:
            return FORGOTTEN
        entry = next(iter(self._store.log(logged.number - 1, 1)), None) if logged is not None else None
        if logged is not None and entry is not None and _is_another(entry, logged):
            return ANOTHER
        if mark.max_ttl_ms < self._realm.max_ttl_ms:
            # The store forgets a kill once the longest token of that time has expired. Tokens that live longer now
            # could outlive a kill that was kept for a shorter time.
            return "tokens may live longer than kills were remembered"
        return None

    def _why_another(self, header: Header, place: HistoryPlace) -> str | None:
        """Return why the store lacks a position, or has other entries up to it; None if it has it."""
        if place.seq > header.seq:
            return FORGOTTEN
        # The store keeps the hashes of recent numbers alone; without one, nothing contradicts.
        chain = self._store.chain_at(place.seq) if place.chain != UNKNOWN else None
        return ANOTHER if chain not in (None, place.chain) else None


def _last_logged(log: AuditLog, incarnation: str) -> EventRecord | None:
    """Return the audit log's record of the last entry of a history, or None."""
    if log.publisher.halted is not None:  # its database was perhaps restored with the store: its files were not
        source = f"{KILLS}/{incarnation}"
        lost = (event for event in log.lost_events() if event.source == source and event.kind.startswith("store."))
        if (newest := next(lost, None)) is not None:
            return newest
    last = log.store.high_water(KILLS, incarnation)
    indexes = log.store.find(incarnation, last, KILLS) if last else []
    row = log.store.record(indexes[0]) if indexes else None
    record = None if row is None else read_event(row.kept, None)
    return record if record is not None and record.kind.startswith("store.") else None


def _is_another(entry: StoreEntry, logged: EventRecord) -> bool:
    """Return whether an entry of the store differs from the log's record of its number."""
    same_number = entry.seq == logged.number
    return same_number and (entry.at_ms, f"store.{entry.op}") != (logged.at, logged.kind)
