# SPDX-License-Identifier: Apache-2.0
"""The key that mints now, and those that verifiers accept: a new one mints only once all know it.  SPEC 9, CONTROL 3.

A root key, or an audience's next number, is published first.  ``rotation`` sets the time from which it mints: two
refresh intervals later, unless an operator asks for now.  For an audience it mints only when every key of that service
which asked lately has fetched it; so no token ever meets a service that does not know its key.  All mints of a realm
decide this alike, from the same rows.  Keys are derived by ``root_keys``.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.keys import (
    BY_FILE,
    FetchRow,
    KeyRows,
    NumberRow,
    RootRow,
    SealedRoot,
    retired_targets,
)
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.realm import Realm
from arx_verifier.errors import ArxError, GrantError, SettingsError
from arx_verifier.token import AudienceKey, KeyRing

LOOK_S: Final = 1.0  # between two looks at the rows; a refresh interval is no shorter
USED_MS: Final = 60_000  # how exactly it is known when a key last minted

_log = logging.getLogger(__name__)


class FetchedKeys(NamedTuple):
    """Which key ids somebody fetched last, and when, ms."""

    holder_key: str
    kids: frozenset[str]
    at: int


class Plan(NamedTuple):
    """The rows, sorted for questions.

    Attributes:
        roots: Root keys that are not retired and can be derived from, by age.
        numbers: By audience, the numbers that are not retired, by age.
        fetched: By audience, who fetched which key ids when.
        rows: Everything, what is retired as well.
    """

    roots: tuple[RootRow, ...]
    numbers: dict[str, list[NumberRow]]
    fetched: dict[str, list[FetchedKeys]]
    rows: KeyRows


class KeySchedule:
    """The keys of a realm and their times.

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
        self._looked = 0.0
        self.ring = MintKeys(self, dict(map(roots.mint_key, roots.names)), realm)

    def start(self) -> None:
        """Take the file's root keys over into the database, and look at what else there is.

        Raises:
            SettingsError: A root key of the database does not open, or none is left that mints.
            StoreError: The database does not answer.
        """
        self._db.keys.know_roots(self._roots.names)
        self.look(at_once=True)

    def look(self, *, at_once: bool = False) -> Plan:
        """Return the plan, at most a second old.

        Args:
            at_once: Whether to look again in any case.

        Raises:
            SettingsError: As ``start``.
            StoreError: The database does not answer.
        """
        with self._lock:
            plan = self._plan
            if plan is None or at_once or time.monotonic() - self._looked >= LOOK_S:
                plan = self._plan = self._read()
                self._looked = time.monotonic()
        return plan

    def tick(self) -> None:
        """Look, and remember which keys mint; for a thread that does so again and again.

        Raises:
            ArxError: It could not.
        """
        plan, now = self.look(), now_ms()
        chosen = {audience: self._choose(plan, audience, now) for audience in plan.numbers}
        roots = {self._minting(plan, now), *(root for root, _ in chosen.values())}
        numbers = {number for _, number in chosen.values()}
        if min(*(root.used_at for root in roots), *(number.used_at for number in numbers), now) < now - USED_MS:
            self._db.keys.note_used([root.name for root in roots], [(number.audience, number.n) for number in numbers])

    def mint_key(self) -> tuple[str, bytes]:
        """Return the key id and the key that the mint's own tokens are made with."""
        return self._roots.mint_key(self._minting(self.look(), now_ms()).name)

    def audience_key(self, audience: str) -> tuple[str, bytes]:
        """Return the key id and the key that tokens for an audience are minted with."""
        root, number = self._choose(self._numbered(audience), audience, now_ms())
        return self._roots.audience_key(root.name, audience, number.n)

    def enrolment(self, invitation: str, root: str | None = None) -> tuple[str, bytes]:
        """Return a root key's name and the secret bytes of an enrolment token that is made with it.

        Args:
            invitation: A random name.
            root: The root key of an invitation that was made before.

        Raises:
            GrantError: ``conflict``: that root key is gone.
        """
        plan = self.look()
        name = self._minting(plan, now_ms()).name if root is None else root
        if name not in {row.name for row in plan.roots}:
            raise GrantError("the root key of this invitation was retired; make another one", code="conflict")
        return name, self._roots.enrolment(name, invitation)

    def audience_keys(self, audience: str) -> dict[str, tuple[bytes, int]]:
        """Return every key that a tool service must accept, by key id, with the time of its publication, ms."""
        plan, keys = self._numbered(audience), {}
        for number in plan.numbers[audience]:
            for root in plan.roots:
                kid, key = self._roots.audience_key(root.name, audience, number.n)
                keys[kid] = key, max(root.created_at, number.created_at)
        return keys

    def minting(self, audience: str | None = None) -> str:
        """Return the name of the root key that mints for an audience, or for the mint itself."""
        plan, now = self.look(), now_ms()
        return (self._minting(plan, now) if audience is None else self._choose(plan, audience, now)[0]).name

    def waits_for(self, root: RootRow, plan: Plan) -> dict[str, list[str]]:
        """Return which own keys of which audiences have not fetched a root key yet."""
        now, found = now_ms(), {}
        for audience, numbers in plan.numbers.items():
            missing = self._missing(plan, audience, f"{root.name}.{numbers[-1].n}", now)
            if missing:
                found[audience] = missing
        return found

    def ready_at(self, root: RootRow) -> int:
        """Return when a root key may mint at the earliest: services have had two intervals to fetch it."""
        return root.created_at + 2 * self._realm.key_refresh_ms

    def retired_targets(self) -> set[str]:
        """Return the target of every key that is retired: each is to be frozen."""
        return retired_targets(self.look().rows)

    def _numbered(self, audience: str) -> Plan:
        plan = self.look()
        if audience not in plan.numbers:
            self._db.keys.number_audience(audience)
            plan = self.look(at_once=True)
        return plan

    def _read(self) -> Plan:
        rows = self._db.keys.rows()
        for row in rows.roots:
            if row.name not in self._roots.names and row.nonce is not None and row.sealed is not None:
                self._roots.open(SealedRoot(row.name, row.nonce, row.sealed))
        held = self._roots.names
        roots = tuple(row for row in rows.roots if row.retired_at is None and row.name in held)
        if not any(row.mints_from is not None and row.mints_from <= now_ms() for row in roots):
            raise SettingsError("every root key that could mint is retired or missing: restore keys/root.json")
        plan = Plan(roots, self._live(rows.numbers), _by_audience(rows.fetches), rows)
        self.ring.replace(dict(self._roots.mint_key(row.name) for row in roots))
        return plan

    def _live(self, rows: Iterable[NumberRow]) -> dict[str, list[NumberRow]]:
        """Leave out what is retired, and what no token that is alive can have been made with."""
        live: dict[str, list[NumberRow]] = defaultdict(list)
        for row in rows:
            if row.retired_at is None:
                live[row.audience].append(row)
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
                if self._ready(plan, root, number, now):
                    return root, number
        # A service that was enrolled just now, or one whose other keys were stolen.
        return self._minting(plan, now), numbers[0]

    def _ready(self, plan: Plan, root: RootRow, number: NumberRow, now: int) -> bool:
        if root.mints_from is None or now < root.mints_from:
            return False
        if now < number.created_at + 2 * self._realm.key_refresh_ms:
            return False
        is_first = number is plan.numbers[number.audience][0] and not root.waits
        return is_first or not self._missing(plan, number.audience, f"{root.name}.{number.n}", now)

    def _missing(self, plan: Plan, audience: str, kid: str, now: int) -> list[str]:
        """Return who of an audience is alive and has not fetched a key."""
        fetched = plan.fetched.get(audience, [])
        own = [row for row in fetched if not row.holder_key.startswith(BY_FILE)]
        # One that has not asked for as long as a token lives does not run any more.
        alive = [row for row in own if row.at > now - self._realm.max_ttl_ms] if own else fetched
        return [row.holder_key for row in alive if kid not in row.kids]


class MintKeys(KeyRing):
    """The keys of the mint's own tokens; one that another mint made is looked for when it is met."""

    __slots__ = ("_schedule",)

    def __init__(self, schedule: KeySchedule, keys: dict[str, bytes], realm: Realm) -> None:
        super().__init__(keys, realm=realm.name, max_ttl_ms=realm.max_ttl_ms)
        self._schedule = schedule

    def get(self, kid: str) -> AudienceKey | None:
        """Return the key of ``kid``, or None."""
        found = super().get(kid)
        if found is None:
            try:
                self._schedule.look(at_once=True)  # rotated at once, a key may be younger than the last look
            except ArxError as error:
                _log.error("root keys cannot be looked at: %s", error)
                return None
            found = super().get(kid)
        return found


def _by_audience(rows: Iterable[FetchRow]) -> dict[str, list[FetchedKeys]]:
    found: dict[str, list[FetchedKeys]] = defaultdict(list)
    for row in rows:
        kids = msgspec.json.decode(row.kids, type=frozenset[str])
        found[row.audience].append(FetchedKeys(row.holder_key, kids, row.at))
    return found
