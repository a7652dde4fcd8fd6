# SPDX-License-Identifier: Apache-2.0
"""Compare the store's kills and freezes with the store's log, the mint's database and the mint's events.  SPEC 10.

A restored file, or a user with write access, can undo a kill in the store; these checks detect it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from arx_caps.cli.commands.doctor.check import Check
from arx_caps.realm import Realm
from arx_caps.revocation import RevocationStore, StoreEntry, StoreHistoryError
from arx_verifier.errors import ArxError
from arx_verifier.revocation import FREEZING, KILLING

PAGE: Final = 1_000
KEEP_LOG: Final = 10_000  # the limit of the store's functions, which delete older entries
EVENTS: Final = ("targets.killed", "targets.frozen", "targets.thawed")
HISTORIES: Final = ("epoch.begun", "epoch.rotated")
BEGIN: Final = "start the mint: it begins a history, and restores the freezes of its database"
NAMED: Final = 50  # of the missing freezes
ROTATE: Final = "restart the mint: it begins a new history, which revokes every older token"


def check_history(store: RevocationStore, realm: Realm) -> Iterator[Check]:
    """Compare a realm's kills in the store, in its log and at the mint.

    Raises:
        StoreError: The store does not answer.
    """
    try:
        header = store.header()
    except StoreHistoryError:
        yield Check("history", False, "the store has no history of this realm", BEGIN)
        yield _freezes(store, realm)
        return
    # Log and maps are read one after the other; a mismatch counts only if it is still there at the second look.
    for last in (False, True):
        log = list(_log(store))
        found = _log_and_maps(store, log, header.seq, _kept(store, realm, header.at_ms))
        if found.ok or last:
            break
        header = store.header()  # a kill or thaw happened between two reads: read again
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
    """Return a predicate: whether the store must still have a kill, because a token that it revokes may be alive."""
    client, header = store.exchange.client, store.keys.header
    max_ttl_ms = int(store.exchange.once(lambda: client.hmget(header, "maxttl_ms"))[0] or 0)

    def kept(entry: StoreEntry) -> bool:
        if entry.at_ms + max_ttl_ms <= at_ms:
            return False
        kind, _, name = entry.target.partition(":")
        if kind not in ("session", "task") or entry.why != f"{kind} ended":
            return True
        # The mint lets the store delete it when the session or the task itself has expired.
        row = row_of(realm, kind, name)
        return row is not None and int(row["expires_at"]) > at_ms

    return kept


def row_of(realm: Realm, kind: str, name: str) -> Mapping[str, Any] | None:
    """Return the mint's row of a session or a task, or None.

    Args:
        realm: The realm.
        kind: ``session`` or ``task``.
        name: Its id.
    """
    from arx_caps.mint.db.mint_database import MintDatabase

    if realm.database is None and not realm.database_path.exists():
        return None
    try:
        with MintDatabase(realm.database_url) as db:
            return db.sessions.find(name) if kind == "session" else db.tasks.find(name)
    except ArxError:
        return None  # another check reports it


def _log_and_maps(store: RevocationStore, log: list[StoreEntry], seq: int, kept: Callable[[StoreEntry], bool]) -> Check:
    """Replay the log: the maps must have its last entry of each target, except kills that were deleted in time."""
    kills, freezes = store.kills(), store.freezes()
    # A kill is a map entry with the sequence of its log entry; a newer kill of the same target may have replaced it.
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
    # One freeze too many can trust entries of a memory: a taint narrows the freeze of its target (SPEC 18.4).
    wrong += [target for target, at in freezes.items() if log and log[0].seq <= at <= seq and target not in frozen]
    if log and log[-1].seq != seq:
        return Check("history", False, f"the store is at entry {seq}, its log at entry {log[-1].seq}", ROTATE)
    if log and log[-1].seq - log[0].seq != len(log) - 1:
        found = f"the log lacks entries between {log[0].seq} and {log[-1].seq}"
        return Check("history", False, f"{found}: a user wrote without the store's functions", ROTATE)
    if wrong:
        found = f"{wrong[0]} differs from the log: a user wrote without the store's functions"
        return Check(
            "history", False, found, f"{ROTATE}; then find the user with write access, and change its password"
        )
    direct = sum("direct" in entry.by for entry in log)
    past = f", {direct} of them written without the mint" if direct else ""
    return Check("history", True, f"at entry {seq}; {len(log)} entries in the log{past}")


def _high_water(store: RevocationStore, realm: Realm, incarnation: str, seq: int) -> Check:
    from arx_caps.mint.db.mint_database import MintDatabase

    # Opening a missing SQLite file would create an empty one, which hides the loss.
    path = realm.database_path
    if realm.database is None and not path.exists():
        found = f"{path} is missing: the mint has no agents, sessions, operators and kills"
        return Check(
            "memory", False, found, "restore it from a backup, then restart the mint; until then kill with --direct"
        )
    try:
        with MintDatabase(realm.database_url) as db:
            mark, known = db.epoch.high_water(realm.name), db.operators.exist()
    except ArxError as error:
        return Check("memory", False, str(error), "check the mint's database, at `database` in realm.toml")
    if not known:
        found = "the mint's database is new: it has no operators, and no earlier kills"
        return Check(
            "memory", False, found, "restore it from a backup, then restart the mint; until then kill with --direct"
        )
    if mark is None:
        return Check("memory", False, "the mint has not used this store yet", "start the mint")
    if mark.incarnation != incarnation:
        return Check("memory", False, "the store has another history than the mint", ROTATE)
    if mark.seq > seq:
        return Check("memory", False, f"the store has lost {mark.seq - seq} entries that the mint has", ROTATE)
    # Equal numbers do not prove equal entries, so the hash chain is compared too.
    if mark.chain and (store.chain_at(mark.seq) or mark.chain) != mark.chain:
        found = "the store has lost entries that the mint has, and used their numbers for others"
        return Check("memory", False, found, ROTATE)
    return Check("memory", True, f"the mint has applied {mark.seq} of {seq} entries")


def _record(realm: Realm, log: dict[int, StoreEntry], seq: int) -> Check:
    """Compare the log with the mint's events: after a rollback their numbers have other entries, or none."""
    compared = 0
    try:
        events = _events(realm)
    except ArxError as error:
        return Check("record", False, str(error), "check the mint's database, at `database` in realm.toml")
    for number, target in _recorded(events):
        if not seq - KEEP_LOG < number <= seq:
            continue  # deleted by the store's functions, or newer than this check
        entry = log.get(number)
        if entry is None or entry.target != target:
            found = f"entry {number} is {entry.target if entry else 'missing'} in the store, {target} at the mint"
            return Check("record", False, found, ROTATE)
        compared += 1
    return Check("record", True, f"{compared} entries match the mint's events")


def _freezes(store: RevocationStore, realm: Realm) -> Check:
    """Compare the store's freezes with those of the database."""
    from arx_caps.mint.db.mint_database import MintDatabase
    from arx_caps.mint.revocation.freezes import wanted_freezes

    if realm.database is None and not realm.database_path.exists():
        return Check("freezes", False, "unknown without the mint's database", "restore the database from a backup")
    try:
        with MintDatabase(realm.database_url) as db:
            wanted = wanted_freezes(db, store, realm.name)
    except ArxError as error:
        return Check("freezes", False, str(error), "check the mint's database, at `database` in realm.toml")
    # More freezes in the store are fine: an operator can freeze without the mint.
    lost = sorted(wanted - set(store.freezes()))
    if lost:
        named = ", ".join(lost[:NAMED]) + (f" and {len(lost) - NAMED} more" if len(lost) > NAMED else "")
        found = f"the store lacks {len(lost)} of {len(wanted)} freezes: {named}"
        return Check("freezes", False, found, "start the mint: it restores them before it grants anything")
    return Check("freezes", True, f"the store has every freeze of the mint: {len(wanted)}")


def _recorded(events: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """Yield number and target of each entry; an event has the number of its last target."""
    for event in events:
        yield from enumerate(event["targets"], int(event["seq"]) - len(event["targets"]) + 1)


def _events(realm: Realm) -> list[dict[str, Any]]:
    """Return the events about targets in the newest history."""
    from arx_caps.mint.db.mint_database import MintDatabase

    if realm.database is None and not realm.database_path.exists():
        return []  # another check reports it
    with MintDatabase(realm.database_url) as db:
        recorded = db.outbox.since(0, (*EVENTS, *HISTORIES))
    newest = max((place for place, event in enumerate(recorded) if event.kind in HISTORIES), default=-1)
    # An event that was erased with a person has no targets: it cannot be compared.
    return [event.facts for event in recorded[newest + 1 :] if "targets" in event.facts]
