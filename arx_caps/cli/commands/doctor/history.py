# SPDX-License-Identifier: Apache-2.0
"""Compare the store's kills and freezes with the store's log, the mint's database and the mint's events.  SPEC 10.

A restored file, or a user with write access, can undo a kill in the store; these checks detect it.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from arx_caps.cli.commands.doctor.check import Check, ask_database, has_database
from arx_caps.mint.db.tables import SessionRow, TaskRow
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import Header, StoreEntry, StoreHistoryError
from arx_caps.settings.realm import Realm
from arx_verifier.errors import ArxError
from arx_verifier.revocation.epoch import FREEZING, KILLING

if TYPE_CHECKING:
    from arx_caps.mint.db.mint_database import MintDatabase
    from arx_caps.mint.db.repositories.operations.epoch import HighWater

PAGE: Final = 1_000
KEEP_LOG: Final = 10_000  # the limit of the store's functions, which delete older entries
EVENTS: Final = ("targets.killed", "targets.frozen", "targets.thawed")
HISTORIES: Final = ("epoch.begun", "epoch.rotated")
BEGIN: Final = "start the mint: it begins a history, and restores the freezes of its database"
DATABASE: Final = "check the mint's database, at `database` in realm.toml"
NAMED: Final = 50  # of the missing freezes
LOOKS: Final = 3
SETTLE_S: Final = 0.3  # between two looks
ROTATE: Final = "restart the mint: it begins a new history, which revokes every older token"


class _Seen(NamedTuple):
    """The realm's history in the store, as one look finds it while others write.

    Attributes:
        header: The header, read before the log.
        log: The log's entries, oldest first.
        kills: The killed targets, read after the log.
        freezes: The frozen targets, read after the log.
        later: Entries that were added to the log before the maps had been read.
        end: The header, read last.
    """

    header: Header
    log: list[StoreEntry]
    kills: dict[str, int]
    freezes: dict[str, int]
    later: list[StoreEntry]
    end: Header


def check_history(store: RevocationStore, realm: Realm) -> Iterator[Check]:
    """Compare a realm's kills in the store, in its log and at the mint.

    Raises:
        StoreError: The store does not answer.
    """
    # A busy realm changes between two reads, and a history may begin between two looks: what is wrong is wrong in each.
    for left in reversed(range(LOOKS)):
        checks = list(_look(store, realm))
        if not left or all(check.ok for check in checks):
            yield from checks
            return
        time.sleep(SETTLE_S)


def _look(store: RevocationStore, realm: Realm) -> Iterator[Check]:
    # The mint's mark before the store's header: the mint raises its mark after the store has the entry.
    mark = _read_mark(realm)
    try:
        seen = _read_store(store)
    except StoreHistoryError:
        yield Check("history", False, "the store has no history of this realm", BEGIN)
        yield _freezes(store, realm, is_whole=False)
        return
    yield _log_and_maps(seen, _kept(store, realm, seen.header.at_ms))
    memory = mark if isinstance(mark, Check) else _high_water(store, mark, seen.header)
    yield memory
    yield _record(realm, seen)
    yield _freezes(store, realm, is_whole=memory.ok is True)


def _read_store(store: RevocationStore) -> _Seen:
    header = store.header()
    log = list(_log(store))
    kills, freezes = store.kills(), store.freezes()
    later = list(_log(store, log[-1].seq if log else 0))
    return _Seen(header, log, kills, freezes, later, store.header())


def _log(store: RevocationStore, after: int = 0) -> Iterator[StoreEntry]:
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
        return row is not None and row.expires_at > at_ms

    return kept


def row_of(realm: Realm, kind: str, name: str) -> SessionRow | TaskRow | None:
    """Return the mint's row of a session or a task, or None.

    Args:
        realm: The realm.
        kind: ``session`` or ``task``.
        name: Its id.
    """
    return ask_database(realm, lambda db: (db.sessions if kind == "session" else db.tasks).find(name))


def _log_and_maps(seen: _Seen, kept: Callable[[StoreEntry], bool]) -> Check:
    """Replay the log: the maps must have its last entry of each target, except kills that were deleted in time."""
    log, kills, freezes = seen.log, seen.kills, seen.freezes
    whole = [*log, *seen.later]
    at = log[-1].seq if log else 0
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
    wrong += [target for target, number in frozen.items() if freezes.get(target, 0) != number]
    # One freeze too many can trust entries of a memory: a taint narrows the freeze of its target (SPEC 18.4).
    wrong += [
        target for target, number in freezes.items() if log and log[0].seq <= number <= at and target not in frozen
    ]
    changed = {entry.target for entry in seen.later}
    wrong = [target for target in wrong if target not in changed]
    if whole and (at < seen.header.seq or whole[-1].seq > seen.end.seq):
        found = f"the store is at entry {seen.end.seq}, its log at entry {whole[-1].seq}"
        return Check("history", False, found, ROTATE)
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
    return Check("history", True, f"at entry {seen.header.seq}; {len(log)} entries in the log{past}")


def _read_mark(realm: Realm) -> "HighWater | Check":
    """Return the last place in the store's history that the mint's database has, or what is wrong with the database."""
    from arx_caps.mint.db.mint_database import MintDatabase

    # Opening a missing SQLite file would create an empty one, which hides the loss.
    path = realm.database_path
    restore = "restore it from a backup, then restart the mint; until then kill with --direct"
    if not has_database(realm):
        return Check(
            "memory", False, f"{path} is missing: the mint has no agents, sessions, operators and kills", restore
        )
    try:
        with MintDatabase(realm.database_url) as db:
            mark, known = db.epoch.high_water(realm.name), db.operators.exist()
    except ArxError as error:
        return Check("memory", False, str(error), DATABASE)
    if not known:
        return Check("memory", False, "the mint's database is new: it has no operators, and no earlier kills", restore)
    return mark or Check("memory", False, "the mint has not used this store yet", "start the mint")


def _high_water(store: RevocationStore, mark: "HighWater", header: Header) -> Check:
    if mark.incarnation != header.incarnation:
        return Check("memory", False, "the store has another history than the mint", ROTATE)
    if mark.seq > header.seq:
        found = f"the store has lost {mark.seq - header.seq} entries that the mint has"
        return Check("memory", False, found, ROTATE)
    # Equal numbers do not prove equal entries, so the hash chain is compared too.
    if mark.chain and (store.chain_at(mark.seq) or mark.chain) != mark.chain:
        found = "the store has lost entries that the mint has, and used their numbers for others"
        return Check("memory", False, found, ROTATE)
    return Check("memory", True, f"the mint has applied {mark.seq} of {header.seq} entries")


def _record(realm: Realm, seen: _Seen) -> Check:
    """Compare the log with the mint's events: after a rollback their numbers have other entries, or none."""
    log, compared = {entry.seq: entry for entry in seen.log}, 0
    try:
        events = _events(realm)
    except ArxError as error:
        return Check("record", False, str(error), DATABASE)
    for number, target in _recorded(events):
        if not seen.end.seq - KEEP_LOG < number <= seen.header.seq:
            continue  # deleted by the store's functions, or newer than this check
        entry = log.get(number)
        if entry is None or entry.target != target:
            found = f"entry {number} is {entry.target if entry else 'missing'} in the store, {target} at the mint"
            return Check("record", False, found, ROTATE)
        compared += 1
    return Check("record", True, f"{compared} entries match the mint's events")


def _freezes(store: RevocationStore, realm: Realm, *, is_whole: bool) -> Check:
    """Compare the store's freezes with those of the database.

    Args:
        store: The store.
        realm: The realm.
        is_whole: Whether the store has lost no entry that the mint knows.
    """
    from arx_caps.mint.db.mint_database import MintDatabase
    from arx_caps.mint.revocation.freezes import wanted_freezes

    if not has_database(realm):
        return Check("freezes", False, "unknown without the mint's database", "restore the database from a backup")
    try:
        with MintDatabase(realm.database_url) as db:
            wanted = wanted_freezes(db, store, realm.name) | _logged(db, realm)
            lost = wanted - set(store.freezes())
            if lost:  # one that was thawed between the two reads is not wanted any more
                lost &= wanted_freezes(db, store, realm.name) | _logged(db, realm)
            if lost and is_whole:  # the audit log comes after the store's: what that one thawed last is not lost
                lost -= set(store.freezes())
                last = {entry.target: entry.op for entry in _log(store)}
                lost = {target for target in lost if last.get(target) != "thaw"}
    except ArxError as error:
        return Check("freezes", False, str(error), DATABASE)
    # More freezes in the store are fine: an operator can freeze without the mint.
    if lost:
        named = ", ".join(sorted(lost)[:NAMED]) + (f" and {len(lost) - NAMED} more" if len(lost) > NAMED else "")
        found = f"the store lacks {len(lost)} of {len(wanted)} freezes: {named}"
        return Check(
            "freezes",
            False,
            found,
            "start the mint: it restores them before it grants anything; one that runs does so within a minute",
        )
    return Check("freezes", True, f"the store has every freeze of the mint: {len(wanted)}")


def _logged(db: "MintDatabase", realm: Realm) -> set[str]:
    """Return the targets of the freezes that the audit log alone has."""
    from arx_caps.mint.audit.log import open_store
    from arx_caps.mint.revocation.logged_freezes import find_missing

    if realm.database is None and not realm.audit_path.exists():
        return set()  # opening it would make an empty one
    with contextlib.closing(open_store(realm)) as log:
        return {freeze.target for freeze in find_missing(db, log)}


def _recorded(events: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """Yield number and target of each entry; an event has the number of its last target."""
    for event in events:
        yield from enumerate(event["targets"], int(event["seq"]) - len(event["targets"]) + 1)


def _events(realm: Realm) -> list[dict[str, Any]]:
    """Return the events about targets in the newest history."""
    from arx_caps.mint.db.mint_database import MintDatabase

    if not has_database(realm):
        return []  # another check reports it
    with MintDatabase(realm.database_url) as db:
        recorded = db.outbox.since(0, (*EVENTS, *HISTORIES))
    newest = max((place for place, event in enumerate(recorded) if event.kind in HISTORIES), default=-1)
    # An event that was erased with a person has no targets: it cannot be compared.
    return [event.facts for event in recorded[newest + 1 :] if "targets" in event.facts]
