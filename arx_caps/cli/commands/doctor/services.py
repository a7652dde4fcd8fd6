# SPDX-License-Identifier: Apache-2.0
"""The checks of the enrolled services, gateways included: whether each runs, has the newest keys, and ships.

A service without a key of its own reports no version and ships nothing.  That is in order, and a hint says more.
"""

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from arx_caps.cli.commands.doctor.check import Check, ask_database, service_files
from arx_caps.cli.commands.doctor.mints import OWN_VERSION
from arx_caps.database.disk_room import room_fault
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import GONE_MS, VerifierSeen, state_of
from arx_caps.settings.durations import show_span, show_time
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError
from arx_verifier.journal.writer import audience_of

if TYPE_CHECKING:
    from arx_caps.mint.db.mint_database import MintDatabase
    from arx_caps.mint.db.repositories.identity.keys import KeyRows

SETTLE_S: Final = 1.0  # between two looks: a verifier that was only paused has probed again
INTERVALS: Final = 3  # of key_refresh: a service that misses one fetch has another one
SILENT: Final = (
    "start it; if it runs, see its log, and its network to the store: until it follows, it refuses every call"
)
WATCHES: Final = 'see `arx audit records --reason would_refuse`; without mode = "watch" its guard enforces'
UNSEEN: Final = "start it, or remove it with `arx service remove {}`"
REFRESH: Final = "see the log of its process, which refreshes its keys; `arx ship FILE --once` does it now"
NAMED: Final = 20  # services in a line; `arx service list` has all
ENROL: Final = "; one without a key of its own needs `arx service enrol`"
SHIP: Final = "see the log of its process, which ships by itself; else run `arx ship FILE` beside it" + ENROL
REPORT: Final = "start it: its process reports the version" + ENROL
COPY: Final = "give it a key of its own with `arx service enrol {} --out FILE`, and start it from the new file"


def check_services(store: RevocationStore, realm: Realm) -> Iterator[Check]:
    """Check each enrolled service; yield nothing without one.

    Args:
        store: The revocation store, which knows the verifiers.
        realm: The realm.

    Raises:
        StoreError: The store does not answer.
    """
    rows = ask_database(realm, lambda db: _read(db, realm))
    if rows is None:
        return
    names, keys, versions, of_mints = rows
    lease_ms, seen = store.header().lease_ms, store.verifiers()
    if any(state_of(one.age_ms, lease_ms) != "live" for one in seen):
        time.sleep(SETTLE_S)
        seen = store.verifiers()
    yield from _watching(seen)
    wrong = [*_running(lease_ms, seen, names), *_fetched(keys, names, realm), *_files(keys, realm)]
    yield from wrong
    if names and not wrong:
        yield Check("services", True, f"{len(names)} enrolled, each with a live verifier")
    if names:
        yield from _of_versions(versions, of_mints or {OWN_VERSION})
        live = [audience_of(one.id) for one in seen if state_of(one.age_ms, lease_ms) == "live"]
        yield _shipping(realm, names, live)


def _read(db: "MintDatabase", realm: Realm) -> "tuple[list[str], KeyRows, dict[str, set[str]], set[str]]":
    """Return the services, the keys, the versions of each service, and those of the mints."""
    names = sorted(row.audience for row in db.services.list())
    return names, db.keys.rows(), _versions(db, names, realm), {mint.version for mint in db.mints.list()}


def _running(lease_ms: int, seen: Sequence[VerifierSeen], names: list[str]) -> Iterator[Check]:
    behind_relay = any(one.behind is not None for one in seen)
    for name in names:
        own = [one for one in seen if audience_of(one.id) == name]
        if not own and behind_relay:
            continue  # the relay's number of verifiers is in `arx verifier list`
        if check := _of_service(name, own, lease_ms):
            yield check
    for relay in (one for one in seen if one.behind is not None):
        if lease_ms <= relay.age_ms < GONE_MS:
            found = f"the relay {relay.id} has sent no probe for {show_span(relay.age_ms)}"
            yield Check(
                "services", False, f"{found}: the services behind it that know no other relay refuse every call", SILENT
            )


def _watching(seen: Sequence[VerifierSeen]) -> Iterator[Check]:
    """Name each process that watches: there a call goes on that would be refused."""
    for one in seen:
        if one.watches_until is not None:
            found = f"{one.id} watches until {show_time(one.watches_until)}: a call goes on that it would refuse"
            yield Check(f"service {audience_of(one.id) or one.id}", None, found, WATCHES)


def _of_service(name: str, own: list[VerifierSeen], lease_ms: int) -> Check | None:
    """Return what is wrong with the verifiers of a service, or None."""
    check = f"service {name}"
    if not own:
        return Check(check, None, "the store has seen no verifier of it within 10 minutes", UNSEEN.format(name))
    live = [one for one in own if state_of(one.age_ms, lease_ms) == "live"]
    silent = min((one for one in own if one not in live), key=lambda one: one.age_ms, default=None)
    if silent is None:
        return None
    found = f"{silent.id} has sent no probe for {show_span(silent.age_ms)}, and did not end in order"
    if not live:
        return Check(check, False, f"{found}: the service refuses every call", SILENT)
    # A supervisor may have replaced a process that was killed.
    return Check(check, None, f"{found}; {len(live)} others are live", SILENT) if silent.age_ms < GONE_MS else None


def _newest(keys: "KeyRows", realm: Realm) -> dict[str, dict[str, int]]:
    """Return by audience the ids of the keys that its services must have by now, with their time of publication."""
    before = now_ms() - INTERVALS * realm.key_refresh_ms
    newest: dict[str, dict[str, int]] = {}
    for number in (row for row in keys.numbers if row.retired_at is None):
        # Numbers ascend: the last one of an audience is left.
        newest[number.audience] = {
            f"{root.name}.{number.n}": at
            for root in keys.roots
            if root.retired_at is None and (at := max(root.created_at, number.created_at)) < before
        }
    return newest


def _fetched(keys: "KeyRows", names: list[str], realm: Realm) -> Iterator[Check]:
    """Check that each service has fetched the newest keys: a rotation waits for it, and then a retirement ends it."""
    newest, now = _newest(keys, realm), now_ms()
    for name in names:
        # As the mint judges them: one that has not asked for the longest life of a token does not run any more.
        for row in (row for row in keys.fetches if row.audience == name and row.at > now - realm.max_ttl_ms):
            had = msgspec.json.decode(row.kids, type=frozenset[str])
            lacks = _lacking(newest.get(name, {}), had)
            if lacks:
                found = f"its service file is {show_span(now - row.at)} old and lacks {lacks}: a rotation waits for it"
                yield Check(f"service {name}", False, found, REFRESH)
                break


def _files(keys: "KeyRows", realm: Realm) -> Iterator[Check]:
    """Check the service files of the realm's folder: their keys, and whether their journals can be written."""
    newest = _newest(keys, realm)
    for path, file in service_files(realm):
        lacks = _lacking(newest.get(file.audience, {}), frozenset(file.keys))
        if lacks:
            yield Check(f"service {file.audience}", False, f"{path} lacks {lacks}", COPY.format(file.audience))
    for folder in sorted(realm.journals_dir.iterdir()) if realm.journals_dir.is_dir() else ():
        if folder.is_dir() and (fault := room_fault(folder)):
            found = f"the journal {folder} {fault}: a call that cannot be recorded is refused"
            yield Check("journals", False, found, "give it room, and its owner write access")


def _lacking(wanted: Mapping[str, int], had: frozenset[str]) -> str:
    missing = sorted(wanted.keys() - had)
    if not missing:
        return ""
    age_ms = now_ms() - min(wanted[kid] for kid in missing)
    return f"the key {missing[0]}, which was published {show_span(age_ms)} ago"


def _versions(db: "MintDatabase", names: list[str], realm: Realm) -> dict[str, set[str]]:
    """Return by service the versions that its own keys have reported; none of a key that is not in use any more."""
    since = now_ms() - realm.max_ttl_ms  # as the mint judges the fetches of a key
    keys = db.holder_keys.by_holder(f"service:{name}" for name in names)
    used = {holder: [row.kid for row in of if (row.used_at or 0) > since] for holder, of in keys.items()}
    reported = db.holder_keys.versions(kid for kids in used.values() for kid in kids)
    return {name: {reported[kid] for kid in used[f"service:{name}"] if kid in reported} for name in names}


def _of_versions(versions: Mapping[str, set[str]], of_mints: set[str]) -> Iterator[Check]:
    """Name the version of each service, and those that differ from the mints'."""
    for name, of in versions.items():
        if other := of - of_mints:
            found = f"it runs {', '.join(sorted(other))}, the mints run {', '.join(sorted(of_mints))}"
            mend = "install the mints' version where it runs, and restart it; while you upgrade, this passes"
            yield Check(f"service {name}", False, found, mend)
    alike = [f"{name} {', '.join(of)}" for name, of in versions.items() if of and of <= of_mints]
    unknown = [name for name, of in versions.items() if not of]
    parts = [_list(alike)] if alike else []
    if unknown:
        parts.append(f"unknown of {_list(unknown)}")
    if parts:
        yield Check("versions of services", True, "; ".join(parts), REPORT if unknown else "")


def _shipping(realm: Realm, names: list[str], live: Collection[str | None]) -> Check:
    """Name when each service shipped last; one that never did may have decided nothing, so it is no fault."""
    from arx_caps.mint.audit.log import open_store

    try:
        with contextlib.closing(open_store(realm)) as log:
            sent = log.last_sent(names)
    except ArxError as error:
        return Check("shipping", None, str(error), "start the mint, or see its log; then run `arx doctor` again")
    now = now_ms()
    parts = [_list([f"{name} {show_span(max(0, now - at))} ago" for name, at in sorted(sent.items())])] if sent else []
    silent = [name for name in names if name not in sent]
    if runs := [name for name in silent if name in live]:
        parts.append(f"{_list(runs)}: a verifier runs, and no record of it was ever shipped")
    if rest := [name for name in silent if name not in live]:
        parts.append(f"{_list(rest)}: no record was ever shipped")
    return Check("shipping", True, "; ".join(parts), SHIP if silent else "")


def _list(named: Sequence[str]) -> str:
    more = f", and {len(named) - NAMED} more in `arx service list`" if len(named) > NAMED else ""
    return ", ".join(named[:NAMED]) + more
