# SPDX-License-Identifier: Apache-2.0
"""Whether the store's history can continue, or has to end.  SPEC 10.11.

A store that went back does not know it.  So its place in the kill sequence is compared with every place known
elsewhere: the database's mark, what this mint's own view has applied, what the audit log has of the store's log, and
what verifiers report in their probes.  A new history begins after the highest of them, so that no number is given
twice.  A verifier's report is no proof: reports may end a bounded number of histories an hour, and move the sequence by
a bounded distance.
"""

import logging
from typing import Final, NamedTuple

from arx_caps.audit.ingest import EventRecord, read_event
from arx_caps.audit.store import LogStore
from arx_caps.mint.audit.feeds import KILLS
from arx_caps.mint.audit.log import AuditLog
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.epoch import HighWater
from arx_caps.realm import Realm
from arx_caps.revocation import RevocationStore, Topology
from arx_caps.revocation.failover import attest as attest_server
from arx_caps.revocation.wire import Ahead, Entry, Header
from arx_verifier.errors import ArxError
from arx_verifier.revocation import UNKNOWN, Epochs, HistoryPlace, new_incarnation

MINT: Final = "mint"
ATTESTING: Final = 1  # what one mint of several does at a time
BEGUN: Final = "epoch.begun"
ROTATED: Final = "epoch.rotated"
WORDS: Final = 3  # histories that verifiers' words may end
WORDS_MS: Final = 60 * 60 * 1000  # within so long
MOST_AHEAD: Final = 1_000_000  # how far above the store's number a verifier's word may move the sequence
ANOTHER: Final = "the store has lost kills and given their numbers to others"
FORGOTTEN: Final = "the store has lost kills"

_log = logging.getLogger(__name__)


class Known(NamedTuple):
    """What is known of the kill sequence without the store, read before the store is asked: that one may be further.

    Attributes:
        mark: The database's mark, or None.
        view: What this mint's own view has applied; it keeps that while it refuses a store that went back.
        logged: The last entry of the mark's history that the audit log has, or None.
        seq: The highest number of all, in whichever history.
    """

    mark: HighWater | None
    view: HistoryPlace
    logged: EventRecord | None
    seq: int


class StoreHistory:
    """The history of the revocation store, as a mint attests it.

    Args:
        realm: The realm.
        db: The mint's database, which has the mark.
        store: The store.
        topology: Its replicas, and what a failover means.
        epochs: The mint's own view of the kill epoch.
        log: The audit log, which has the store's log.
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
        """Compare the store with what is known elsewhere; begin or renew its history where they differ.

        Raises:
            StoreError: Store or database do not answer.
        """
        # Two mints that both find the store without its kills would end each other's new history.
        with self._db.alone(ATTESTING):
            self._attest()

    def believed(self) -> Ahead | None:
        """Return the word of a verifier that knows a place which the store does not have, unless it is one too many.

        Raises:
            StoreError: Store or database do not answer.
        """
        claim = self._store.ahead()
        if claim is None:
            return None
        ended = self._db.outbox.since(now_ms() - WORDS_MS, (ROTATED,))
        return claim if sum("verifier" in event.facts for event in ended) < WORDS else None

    def _attest(self) -> None:
        realm, ttl = self._realm.name, self._realm.max_ttl_ms
        known = self._known()
        mark, seq, claimed_by = known.mark, known.seq, None
        why: str | None
        self._store.load_functions()
        fresh = new_incarnation()
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
            logged = _last_logged(self._log.store, mark.incarnation) if mark is not None else None
        except ArxError as error:  # its database may be away, or lost: what else is known counts all the same
            _log.error("realm %s: the store is not compared with the audit log: %s", self._realm.name, error)
        return Known(mark, view, logged, max(view.seq, last, mark.seq if mark is not None else 0))

    def _why_end(self, header: Header, known: Known) -> str | None:
        """Say why the store's history cannot be trusted to hold every kill, or None when it can."""
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
            # Kills are forgotten when the longest token of their time is over: longer tokens need longer memory first.
            return "tokens may live longer than kills were remembered"
        return None

    def _why_another(self, header: Header, place: HistoryPlace) -> str | None:
        """Say that the store is behind a place of its history, or has another past there."""
        if place.seq > header.seq:
            return FORGOTTEN
        # The store forgets what led to numbers far behind it; one that went back is not far ahead of this one.
        found = self._store.chain_at(place.seq) if place.chain != UNKNOWN else None
        return ANOTHER if found not in (None, place.chain) else None


def _last_logged(log: LogStore, incarnation: str) -> EventRecord | None:
    """Return the record of the last entry of a history that the log has of the store's, or None."""
    last = log.high_water(KILLS, incarnation)
    found = log.find(incarnation, last, KILLS) if last else []
    row = log.record(found[0]) if found else None
    record = None if row is None else read_event(row.kept, None)
    return record if record is not None and record.kind.startswith("store.") else None


def _is_another(entry: Entry, logged: EventRecord) -> bool:
    """Tell whether the store has something else under the number of a record of the log."""
    same_number = entry.seq == logged.number
    return same_number and (entry.at_ms, f"store.{entry.op}") != (logged.at, logged.kind)
