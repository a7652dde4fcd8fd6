# SPDX-License-Identifier: Apache-2.0
"""Which key mints now, and which keys a service must accept. SPEC 9, CONTROL 3.

Keys are derived in ``root_keys``; ``rotation`` makes, schedules and retires them.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.identity.keys import (
    FetchRow,
    KeyRows,
    NumberRow,
    RootRow,
    SealedRoot,
    retired_targets,
)
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, SettingsError
from arx_verifier.token.keyring import KeyRing, PreparedKey

PLAN_S: Final = 1.0  # how old a plan may be; no refresh interval of a service is shorter
USED_MS: Final = 60_000  # the resolution of the time when a key last minted

_log = logging.getLogger(__name__)


class FetchedKeys(NamedTuple):
    """The key ids that a service's own key fetched last; ``at`` is in ms since the Unix epoch."""

    holder_key: str
    kids: frozenset[str]
    at: int


class Plan(NamedTuple):
    """The rows of one moment, grouped.

    Attributes:
        roots: Root keys in memory that are not retired, the oldest first.
        numbers: By audience, its key numbers that are not retired, the oldest first.
        fetched: By audience, the last fetch of each own key of the service.
        rows: All rows, retired ones included.
    """

    roots: tuple[RootRow, ...]
    numbers: dict[str, list[NumberRow]]
    fetched: dict[str, list[FetchedKeys]]
    rows: KeyRows


# A new key is published first, and mints later: two refresh intervals after its publication, and only for an audience
# whose services have all fetched it. So no token reaches a service that does not know its key. All mints of a realm
# decide from the same rows, so they decide alike.
class KeySchedule:
    """Decides which key mints.

    Args:
        realm: The realm.
        roots: Its root keys.
        db: The mint's database.

    Attributes:
        ring: The keys of the mint's own tokens, for its verifier.
    """

    def __init__(self, realm: Realm, roots: RootKeys, db: MintDatabase) -> None:
        self._realm, self._roots, self._db = realm, roots, db
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._read_at = 0.0
        self.ring = MintKeys(self, dict(map(roots.mint_key, roots.names)), realm)

    def start(self) -> None:
        """Add the file's root keys to the database, and read all rows.

        Raises:
            SettingsError: A root key of the database does not open, or none is left that mints.
            StoreError: The database did not answer.
        """
        self._db.keys.know_roots(self._roots.names)
        self.read_plan(fresh=True)

    def read_plan(self, *, fresh: bool = False) -> Plan:
        """Return the plan, at most ``PLAN_S`` old.

        Args:
            fresh: Whether to read the rows in any case.

        Raises:
            SettingsError: A root key of the database does not open, or none is left that mints.
            StoreError: The database did not answer.
        """
        with self._lock:
            plan = self._plan
            if plan is None or fresh or time.monotonic() - self._read_at >= PLAN_S:
                plan = self._plan = self._read()
                self._read_at = time.monotonic()
        return plan

    def tick(self) -> None:
        """Record in the database which keys mint now; call it about once a second.

        Raises:
            ArxError: The database did not answer, or no key can mint.
        """
        plan, now = self.read_plan(), now_ms()
        # Recorded for what would mint, not for what has minted: a request that waited for this write would be slower,
        # and a key may only be forgotten later than needed, never earlier.
        chosen = {audience: self._choose(plan, audience, now) for audience in plan.numbers}
        roots = {self._minting(plan, now), *(root for root, _ in chosen.values())}
        numbers = {number for _, number in chosen.values()}
        if min(*(root.used_at for root in roots), *(number.used_at for number in numbers), now) < now - USED_MS:
            self._db.keys.note_used([root.name for root in roots], [(number.audience, number.n) for number in numbers])

    def mint_key(self) -> tuple[str, bytes]:
        """Return key id and key of the mint's own tokens."""
        return self._roots.mint_key(self._minting(self.read_plan(), now_ms()).name)

    def audience_key(self, audience: str) -> tuple[str, bytes]:
        """Return key id and key with which tokens for an audience are minted now."""
        root, number = self._choose(self._numbered(audience), audience, now_ms())
        return self._roots.audience_key(root.name, audience, number.n)

    def enrolment(self, invitation: str, root: str | None = None) -> tuple[str, bytes]:
        """Return a root key's name, and the secret bytes of an enrolment token that it derives.

        Args:
            invitation: A random name.
            root: The root key of an older invitation, to derive the same token; None for the one that mints.

        Raises:
            GrantError: ``conflict``: that root key was retired.
        """
        plan = self.read_plan()
        name = self._minting(plan, now_ms()).name if root is None else root
        if name not in {row.name for row in plan.roots}:
            raise GrantError("the root key of this invitation was retired: make another invitation", code="conflict")
        return name, self._roots.enrolment(name, invitation)

    def audience_keys(self, audience: str) -> dict[str, tuple[bytes, int]]:
        """Return every key that a service must accept.

        Returns:
            By key id, the key and when it was published, in ms since the Unix epoch.
        """
        plan, keys = self._numbered(audience), {}
        for number in plan.numbers[audience]:
            for root in plan.roots:
                kid, key = self._roots.audience_key(root.name, audience, number.n)
                keys[kid] = key, max(root.created_at, number.created_at)
        return keys

    def memory_keys(self) -> dict[str, tuple[bytes, int]]:
        """Return every memory key, the oldest first; make the first one.  SPEC 18.3.

        Returns:
            By key id, the key and when it was published, in ms since the Unix epoch.
        """
        rows = self._db.keys.memory_keys()
        if not rows:
            self.make_memory_key(first=True)
            rows = self._db.keys.memory_keys()
        return {kid: (self._roots.unseal(sealed), at) for kid, at, sealed in rows}

    def make_memory_key(self, *, first: bool = False) -> None:
        """Make the next memory key, with which memory services stamp from then on.

        Args:
            first: Whether to make it only if there is none.
        """
        self._db.keys.add_memory_key(self._roots.make, first=first)

    def minting(self, audience: str | None = None) -> str:
        """Return the name of the root key that mints for an audience.

        Args:
            audience: The audience; None for the mint's own tokens.
        """
        plan, now = self.read_plan(), now_ms()
        return (self._minting(plan, now) if audience is None else self._choose(plan, audience, now)[0]).name

    def waits_for(self, root: RootRow, plan: Plan) -> dict[str, list[str]]:
        """Return by audience the own keys of services that have not fetched a root key yet."""
        now, waiting = now_ms(), {}
        for audience, numbers in plan.numbers.items():
            missing = self._not_fetched(plan, audience, f"{root.name}.{numbers[-1].n}", now)
            if missing:
                waiting[audience] = missing
        return waiting

    def ready_at(self, root: RootRow) -> int:
        """Return when a root key may mint at the earliest, in ms since the Unix epoch."""
        # Two intervals: a service that misses one fetch has another one.
        return root.created_at + 2 * self._realm.key_refresh_ms

    def retired_targets(self) -> set[str]:
        """Return the targets of all retired keys, each of which must be frozen."""
        return retired_targets(self.read_plan().rows)

    def _numbered(self, audience: str) -> Plan:
        plan = self.read_plan()
        if audience not in plan.numbers:
            self._db.keys.number_audience(audience)
            plan = self.read_plan(fresh=True)
        return plan

    def _read(self) -> Plan:
        rows = self._db.keys.rows()
        for row in rows.roots:
            if row.name not in self._roots.names and row.nonce is not None and row.sealed is not None:
                # Another mint has made it since: it is opened before a token that is signed with it can arrive.
                self._roots.open(SealedRoot(row.name, row.nonce, row.sealed))
        held = self._roots.names
        roots = tuple(row for row in rows.roots if row.retired_at is None and row.name in held)
        if not any(row.mints_from is not None and row.mints_from <= now_ms() for row in roots):
            raise SettingsError("every root key that could mint is retired or missing: restore keys/root.json")
        plan = Plan(roots, self._live(rows.numbers), _by_audience(rows.fetches), rows)
        self.ring.replace(dict(self._roots.mint_key(row.name) for row in roots))
        return plan

    def _live(self, rows: Iterable[NumberRow]) -> dict[str, list[NumberRow]]:
        """Return key numbers by audience, without retired and outdated ones."""
        live: dict[str, list[NumberRow]] = defaultdict(list)
        for row in rows:
            if row.retired_at is None:
                live[row.audience].append(row)
        # A number that has not minted for the longest life of a token has no live tokens. USED_MS twice: for the
        # resolution of ``used_at``, and for a tick that came late.
        since = now_ms() - self._realm.max_ttl_ms - 2 * USED_MS
        return {
            audience: [row for row in numbers if row is numbers[-1] or row.used_at >= since]
            for audience, numbers in live.items()
        }

    def _minting(self, plan: Plan, now: int) -> RootRow:
        return [row for row in plan.roots if row.mints_from is not None and row.mints_from <= now][-1]

    def _choose(self, plan: Plan, audience: str, now: int) -> tuple[RootRow, NumberRow]:
        numbers = plan.numbers[audience]
        for number in reversed(numbers):
            for root in reversed(plan.roots):
                if self._may_mint(plan, root, number, now):
                    return root, number
        # No key may mint by these rules: the audience was numbered just now, or its older keys were stolen. Its oldest
        # key that is not retired mints all the same, and services refuse its tokens until they have fetched it.
        return self._minting(plan, now), numbers[0]

    def _may_mint(self, plan: Plan, root: RootRow, number: NumberRow, now: int) -> bool:
        # Scheduled by an operator's rotation.
        if root.mints_from is None or now < root.mints_from:
            return False
        # The audience's own key was replaced: its services have had two intervals to fetch the new number.
        if now < number.created_at + 2 * self._realm.key_refresh_ms:
            return False
        # A root key that does not wait is the realm's first, or an operator rotated to it at once. With the audience's
        # oldest number it mints before services have fetched it.
        is_first = number is plan.numbers[number.audience][0] and not root.waits
        return is_first or not self._not_fetched(plan, number.audience, f"{root.name}.{number.n}", now)

    def _not_fetched(self, plan: Plan, audience: str, kid: str, now: int) -> list[str]:
        """Return the own keys of an audience's running services that have not fetched a key."""
        # A service that has not asked for the longest life of a token does not run any more, and must not delay a
        # rotation for good.
        alive = (row for row in plan.fetched.get(audience, []) if row.at > now - self._realm.max_ttl_ms)
        return [row.holder_key for row in alive if kid not in row.kids]


class MintKeys(KeyRing):
    """The keys of the mint's own tokens. An unknown key id makes it read the rows again."""

    __slots__ = ("_schedule",)

    def __init__(self, schedule: KeySchedule, keys: dict[str, bytes], realm: Realm) -> None:
        super().__init__(keys, realm=realm.name, max_ttl_ms=realm.max_ttl_ms)
        self._schedule = schedule

    def get(self, kid: str) -> PreparedKey | None:
        """Return the key of a key id, or None."""
        key = super().get(kid)
        if key is None:
            try:
                # Another mint may have rotated at once, so that this key is younger than the plan.
                self._schedule.read_plan(fresh=True)
            except ArxError as error:
                _log.error("the root keys cannot be read: %s", error)
                return None
            key = super().get(kid)
        return key


def _by_audience(rows: Iterable[FetchRow]) -> dict[str, list[FetchedKeys]]:
    fetches: dict[str, list[FetchedKeys]] = defaultdict(list)
    for row in rows:
        kids = msgspec.json.decode(row.kids, type=frozenset[str])
        fetches[row.audience].append(FetchedKeys(row.holder_key, kids, row.at))
    return fetches
