# SPDX-License-Identifier: Apache-2.0
"""Compare what the store holds with its own log, with the mint's database and with the mint's record.  SPEC 10.

A writer to the store can undo what is in it: an operator's user, a restored file, an administrator at a console.
A verifier that has seen more notices by itself.  This is what shows it to people, and what was ended past the mint.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from arx_caps.cli.commands.doctor.check import Check
from arx_caps.realm import Realm
from arx_caps.revocation import RevocationStore, StoreEntry, StoreHistoryError
from arx_verifier.errors import ArxError
from arx_verifier.revocation import FREEZING, KILLING

PAGE: Final = 1_000
KEEP_LOG: Final = 10_000  # as the store's functions have it: they cut off what is older
EVENTS: Final = ("targets.killed", "targets.frozen", "targets.thawed")
HISTORIES: Final = ("epoch.begun", "epoch.rotated")
BEGIN: Final = "start the mint: it begins one, and freezes again what the database has for frozen"
NAMED: Final = 50  # of the freezes that are missing
ROTATE: Final = "restart the mint: it ends this history, and every older token is revoked"


def check_history(store: RevocationStore, realm: Realm) -> Iterator[Check]:
    """Compare a realm's kills in the store, its log and the mint.

    Raises:
        StoreError: The store does not answer.
    """
    try:
        header = store.header()
    except StoreHistoryError:
        yield Check("history", False, "the store holds no history of this realm", BEGIN)
        yield _freezes(store, realm)
        return
    for last in (False, True):
        log = list(_log(store))
        found = _log_and_maps(store, log, header.seq, _kept(store, realm, header.at_ms))
        if found.ok or last:
            break
        header = store.header()  # a kill or thaw came between two reads: read again
    yield found
    yield _high_water(store, realm, header.incarnation, header.seq)
    yield _record(realm, {entry.seq: entry for entry in log}, header.seq)
    yield _freezes(store, realm)


def _log(store: RevocationStore) -> Iterator[StoreEntry]:
    after = 0
    while page := store.log(after, PAGE):
        yield from page
        after = page[-1].seq


def _kept(store: RevocationStore, realm: Realm, at_ms: int) -> Callable[[StoreEntry], bool]:
    """Return a test of whether a kill is too young to have been forgotten: a token that it ends may still live."""
    client, header = store.exchange.client, store.keys.header
    max_ttl_ms = int(store.exchange.once(lambda: client.hmget(header, "maxttl_ms"))[0] or 0)

    def kept(entry: StoreEntry) -> bool:
        if entry.at_ms + max_ttl_ms <= at_ms:
            return False
        kind, _, name = entry.target.partition(":")
        if kind not in ("session", "task") or entry.why != f"{kind} ended":
            return True
        # The mint let it be forgotten once the session or the task itself was over.
        row = _row(realm, kind, name)
        return row is not None and int(row["expires_at"]) > at_ms

    return kept


def _row(realm: Realm, kind: str, name: str) -> Mapping[str, Any] | None:
    """Return what the mint knows of a session or a task, if it can be asked."""
    from arx_caps.mint.db.mint_database import MintDatabase

    if realm.database is None and not realm.database_path.exists():
        return None
    try:
        with MintDatabase(realm.database_url) as db:
            return db.sessions.find(name) if kind == "session" else db.tasks.find(name)
    except ArxError:
        return None  # said by another check


def _log_and_maps(store: RevocationStore, log: list[StoreEntry], seq: int, kept: Callable[[StoreEntry], bool]) -> Check:
    """Replay the log: what it says last about a target is what the maps must hold, unless it was forgotten in time."""
    kills, freezes = store.kills(), store.freezes()
    killed: dict[str, StoreEntry] = {}
    frozen: dict[str, int] = {}
    for entry in log:
        if entry.op in KILLING:
            killed[entry.target] = entry
        if entry.op in FREEZING:
            frozen[entry.target] = entry.seq
        elif entry.op == "thaw":
            frozen[entry.target] = 0
    wrong = [target for target, entry in killed.items() if target in kills and kills[target] < entry.seq]
    wrong += [target for target, entry in killed.items() if target not in kills and kept(entry)]
    wrong += [target for target, at in frozen.items() if freezes.get(target, 0) != at and at <= seq]
    if log and log[-1].seq != seq:
        return Check("history", False, f"the store is at {seq}, its log at {log[-1].seq}", ROTATE)
    if log and log[-1].seq - log[0].seq != len(log) - 1:
        found = f"entries between {log[0].seq} and {log[-1].seq} are missing in the log"
        return Check("history", False, f"{found}: somebody wrote past the functions", ROTATE)
    if wrong:
        found = f"{wrong[0]} is not as the log says: somebody wrote past the functions"
        return Check("history", False, found, f"{ROTATE}; then look for whose password that was")
    direct = sum("direct" in entry.by for entry in log)
    past = f", {direct} of them written past the mint" if direct else ""
    return Check("history", True, f"at {seq}; {len(log)} entries in the log{past}")


def _high_water(store: RevocationStore, realm: Realm, incarnation: str, seq: int) -> Check:
    from arx_caps.mint.db.mint_database import MintDatabase

    path = realm.database_path
    if realm.database is None and not path.exists():
        found = f"{path} is gone: the mint knows no agent, session or operator, and not what was killed"
        return Check("memory", False, found, "restore it from a backup, then restart the mint; kills work meanwhile")
    try:
        with MintDatabase(realm.database_url) as db:
            mark, known = db.epoch.high_water(realm.name), db.operators.exist()
    except ArxError as error:
        return Check("memory", False, str(error), "look at the mint's database")
    if not known:
        found = "the mint's database was made anew: it knows no operator, and not what was killed before"
        return Check("memory", False, found, "restore it from a backup, then restart the mint; kill with --direct")
    if mark is None:
        return Check("memory", False, "the mint has never seen this store", "start the mint")
    if mark.incarnation != incarnation:
        return Check("memory", False, "the store is in another history than the mint knows", ROTATE)
    if mark.seq > seq:
        return Check("memory", False, f"the store has lost {mark.seq - seq} entries that the mint saw", ROTATE)
    if mark.chain and (store.chain_at(mark.seq) or mark.chain) != mark.chain:
        found = "the store has lost entries that the mint saw, and given their numbers to others"
        return Check("memory", False, found, ROTATE)
    return Check("memory", True, f"the mint has seen {mark.seq} of {seq}")


def _record(realm: Realm, log: dict[int, StoreEntry], seq: int) -> Check:
    """Compare the log with the mint's record: after a rollback the old numbers have other entries, or none."""
    compared = 0
    try:
        events = _events(realm)
    except ArxError as error:
        return Check("record", False, str(error), "look at the mint's database")
    for number, target in _recorded(events):
        if not seq - KEEP_LOG < number <= seq:
            continue  # cut off in time, or newer than this look
        entry = log.get(number)
        if entry is None or entry.target != target:
            found = f"number {number} is {entry.target if entry else 'not'} in the store, {target} in the mint's record"
            return Check("record", False, found, ROTATE)
        compared += 1
    return Check("record", True, f"{compared} entries are as the mint recorded them")


def _freezes(store: RevocationStore, realm: Realm) -> Check:
    """Compare the store's freezes with those of the database."""
    from arx_caps.mint.db.mint_database import MintDatabase
    from arx_caps.mint.revocation.freezes import wanted_freezes

    if realm.database is None and not realm.database_path.exists():
        return Check("freezes", False, "without the mint's database nobody knows what must be frozen", "restore it")
    try:
        with MintDatabase(realm.database_url) as db:
            wanted = wanted_freezes(db, store, realm.name)
    except ArxError as error:
        return Check("freezes", False, str(error), "look at the mint's database")
    lost = sorted(wanted - set(store.freezes()))
    if lost:
        named = ", ".join(lost[:NAMED]) + (f" and {len(lost) - NAMED} more" if len(lost) > NAMED else "")
        found = f"the store has lost {len(lost)} of {len(wanted)} freezes: {named}"
        return Check("freezes", False, found, "start the mint: it freezes them again, and grants nothing before")
    return Check("freezes", True, f"all {len(wanted)} targets that must be refused are frozen")


def _recorded(events: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """Number the targets of events: those of one step follow each other, and the event has the last one's number."""
    for event in events:
        yield from enumerate(event["targets"], int(event["seq"]) - len(event["targets"]) + 1)


def _events(realm: Realm) -> list[dict[str, Any]]:
    """Read the last events about targets in the newest history."""
    from arx_caps.mint.db.mint_database import MintDatabase

    if realm.database is None and not realm.database_path.exists():
        return []  # said already
    with MintDatabase(realm.database_url) as db:
        recorded = db.outbox.since(0, (*EVENTS, *HISTORIES))
    newest = max((place for place, event in enumerate(recorded) if event.kind in HISTORIES), default=-1)
    # What was erased with a person names no target any more; its number is left out of the comparison.
    return [event.facts for event in recorded[newest + 1 :] if "targets" in event.facts]
