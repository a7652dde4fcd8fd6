# SPDX-License-Identifier: Apache-2.0
"""The ledger of a realm in Redis or Valkey: one atomic function call for all pools of a call.  SPEC 17.5."""

import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from arx_verifier.amounts import MAX_AMOUNT
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, StoreError
from arx_verifier.ledger.pools import (
    KEEP_MS,
    NEW,
    PERIOD_MS,
    USED,
    Kind,
    MarkQuestion,
    PoolDraw,
    Short,
    Stopped,
    Taken,
    UsedKey,
    number_of,
    registered_in,
)
from arx_verifier.revocation.password import Password
from arx_verifier.revocation.store_cluster import (
    BUCKETS,
    LOAD,
    KeptFor,
    KeptStore,
    bucket_of,
    cannot_call,
    read_library,
)
from arx_verifier.revocation.store_steps import Steps, by_steps, run
from arx_verifier.revocation.store_url import Address, FoundShard

_TIMEOUT_S: Final = 0.25  # every call with a budget waits for the ledger: a slower one counts as down
_PART: Final = 1000  # pools of the index that one question reads
MOST_SHOWN: Final = 1000
_MOST_PLACES: Final = 100_000
LOOK_S: Final = 2.0  # how often a process that has started asks for the ledger's beginning, also without a call
_TURNS: Final = 3  # of two servers that answer by turns, before a call is given up
COLUMNS: Final = ("p", "c", "r", "l", "x", "o", "m", "u", "b")  # of a pool: see ledger.lua
_INSTANCE: Final = "budgets belong on the instance of the nonces, with an append-only file each second"
_UNHIDDEN: Final = "local HIDDEN = ''\n"  # as ledger.lua begins: the loader puts a secret in it
_SECRET: Final = re.compile("}:([0-9a-f]{32}:)w$")  # in the name of a header
_USED_CALLS: Final = ("arx_verifier.verification", "calls.lua")
_BUDGETS: Final = KeptFor(
    "ledger",
    "every call with a budget",
    "draw",
    "ARX_LEDGER_PASSWORD, ARX_LEDGER_PASSWORD_FILE or the login in `ledger` of the service file",
    ("arx_verifier.ledger", "ledger.lua"),
    f"pools: set its maxmemory-policy to noeviction; {_INSTANCE}",
    "`arx redis acl --role ledger` prints the rights of a service's user, `--role ledger-mint` those of the mint's",
)


class _Names(NamedTuple):
    """The keys of a bucket as the server has them, for those who read them."""

    header: str
    pools: str
    pool: str
    marks: str
    mark: str


class _Bucket:
    """A part of the pools, with a beginning of its own: all of them at one server, a 64th in a cluster.

    Args:
        name: One of ``BUCKETS``; empty at one server.
        realm: The realm.
    """

    def __init__(self, name: str, realm: str) -> None:
        self.name, self.tag = name, f"{realm}.{name}" if name else realm
        # As callers of functions name them; see ``names``.
        header, index, self.pool, _, self.mark = self.names("")
        self.keys = header, index
        self.remembered = ""
        self.since = 0  # the ledger's, at the last look

    def names(self, hidden: str) -> _Names:
        """Return the names of its keys, given the secret in them."""
        begin = f"arx:budget:{{{self.tag}}}:{hidden}"
        # The header's name says whether every caller waits for the replicas: see ledger.lua.
        return _Names(
            f"{begin}{'w' if self.name else 'h'}", f"{begin}pools", f"{begin}p:", f"{begin}marks", f"{begin}m:"
        )


class RedisLedger:
    """Pools in Redis or Valkey, shared by all verifiers of a realm.

    Use the instance of the nonces, with ``appendfsync everysec`` and ``maxmemory-policy noeviction``, never the
    revocation store.  Every service of the realm uses the same one, or a task could use its budget once at each.

    After a restart or a failover its last writes may be missing: the pools that were open then are exhausted, and a
    period pool is full again in its next period.  An operator may top up an exhausted pool.

    It remembers the newest beginning of a ledger that it saw, and sends it with each call: a server with an older one
    does not have what was drawn since, and begins anew.

    In a cluster a draw counts only if the replicas of its shard have it.  So pools go on after a failover.

    Args:
        url: A URL as ``store_url`` parses it.
        realm: The realm.
        password: Replaces a password in the URL.
        timeout_s: Longest wait for an answer, s.
        ca: File of a further authority for TLS, unless the URL has ``ssl_ca_certs``.
        hides: Whether functions that it loads have a secret in the names of their keys, so that a user who may call
            them reaches no key without them; for the mint.

    Raises:
        SettingsError: The URL or the authority is unusable.
    """

    waits = True

    def __init__(
        self,
        url: str,
        realm: str,
        *,
        password: Password | None = None,
        timeout_s: float = _TIMEOUT_S,
        ca: str | None = None,
        hides: bool = False,
    ) -> None:
        address = Address(url, password, ca=ca, name="ledger")
        self._store = KeptStore(address, _BUDGETS, timeout_s)
        if hides:
            self._hide()
        self._client, self._in_cluster, self._spends = self._store.client, self._store.in_cluster, True
        self._buckets = {name: _Bucket(name, realm) for name in (BUCKETS if self._in_cluster else ("",))}
        self._places: dict[str, _Bucket] = {}  # of pools that were shown
        self._note: Callable[[str, str], str] = _keep
        self._recalls = False
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._looker: threading.Thread | None = None
        self._looks_in = 0  # the process that has the thread; 0 before ``start``
        self._loaded: set[FoundShard | None] = set()  # the primaries into which it has loaded all functions

    def _hide(self, secret: str = "") -> None:
        """Load functions with a secret, and for services that may load none, those of used calls into a cluster."""
        hidden = f"local HIDDEN = '{secret or secrets.token_hex(16) + ':'}'\n"
        own = read_library(*_BUDGETS.library).replace(_UNHIDDEN, hidden)
        self._store.libraries = [own, read_library(*_USED_CALLS)] if self._store.in_cluster else [own]

    def recall(self, beginning: Callable[[str], str], note: Callable[[str, str], str]) -> None:
        """Begin with what an earlier process remembered, and keep what this one sees; for the mint, as ``register``.

        Args:
            beginning: Returns the newest beginning of a bucket that was noted; ``NEW`` if no ledger has kept a pool of
                this realm before.  The bucket of a ledger that is one server is empty.
            note: Keeps a newer one, given the bucket and it, before a call draws on that ledger, and returns the newest
                that it knows.  What it raises ends the call.
        """
        remembered = {name: beginning(name) for name in self._buckets}  # all of them before one is noted
        for name, bucket in self._buckets.items():
            bucket.remembered = remembered[name]
        self._note, self._recalls = note, True

    @by_steps
    def take(
        self,
        kind: Kind,
        op: str,
        draws: Sequence[PoolDraw],
        used: UsedKey | None = None,
        marks: MarkQuestion | None = None,
    ) -> Steps[Taken | Short | Stopped]:
        """Take from all pools; see ``Ledger``.

        Args:
            kind: As there.
            op: As there.
            draws: As there.
            used: The key of the call, which is spent first; ``USED`` if it was before; see ``keeps_calls_of``.
            marks: As there.

        Raises:
            StoreError: The server did not answer or refused; what it did is unknown.
        """
        args: list[Any] = [kind, op]
        for draw in draws:
            args += draw[1:6]
        if marks is None:
            answer = yield from self._call("arx2_take", self._bucket(draws), draws, args, used)
        else:
            bucket, args = self._bucket_of(marks.session), [*args, msgspec.msgpack.encode(marks[1:])]
            answer = yield from self._call("arx2_take", bucket, draws, args, used, marks.session)
            if answer[0] in (b"MARK", "MARK"):
                member, at, *found = answer[1:]
                return Stopped(_text(member), at, tuple(map(_text, found)))
        if answer[0] in (b"USED", "USED"):
            return Short(0, USED)
        if answer[0] in (b"OK", "OK"):
            return Taken(tuple(answer[1::3]), tuple(answer[2::3]), tuple(answer[3::3]))
        return Short(answer[1], answer[2], answer[3])

    def keeps_calls_of(self, nonces: Any) -> bool:
        """Return whether a nonce store has this server, which can spend a call and draw its cost at once."""
        # In a cluster they are in two shards: that of the key, and that of the session.
        in_one = self._spends and not self._in_cluster
        return bool(in_one and getattr(nonces, "server_key", None) == self._client.key)

    def calls_since(self) -> int:
        """Return the time before which it may have forgotten a call, as ``NonceStore.not_before``.

        Ask after a ``take`` that spent the call, which may change it.
        """
        started_ms: int = self._client.started_ms
        return started_ms

    def register_session(self, session: str, opened: int) -> bool:
        """Let the marks of a session count that was opened at or before the ledger's beginning.  SPEC 21.5.

        For the mint alone, before it has signed a token for a service in it.

        Args:
            session: A new session.
            opened: When it was opened, ms since the Unix epoch.

        Returns:
            Whether they count now.

        Raises:
            StoreError: The server did not answer or refused; what it did is unknown.
        """
        bucket = self._bucket_of(session)
        return opened > bucket.since or bool(run(self._call("arx2_register", bucket, (), (), None, session)))

    def warnings(self, sessions: Sequence[tuple[str, int]], names: Sequence[str]) -> dict[str, str]:
        """Return which of some warnings are set in any of some sessions, or may have been; for the mint.

        Args:
            sessions: The sessions, each with the time when it was opened, ms since the Unix epoch.
            names: The warnings, as marks of a session.

        Returns:
            By warning the tool and the service of a call that set it; an empty text if it may have been lost.

        Raises:
            StoreError: The server did not answer or refused.
        """
        found: dict[str, str] = {}
        by_bucket: dict[_Bucket, list[tuple[str, int]]] = {}
        for each in sessions:
            by_bucket.setdefault(self._bucket_of(each[0]), []).append(each)
        for bucket, theirs in by_bucket.items():
            rows = self._read(bucket, partial(_warnings_of, [session for session, _ in theirs], names))
            # After the rows: of a ledger that began in between, they count as lost.
            now, since, whole = run(self._call("arx2_ledger", bucket, (), ()))
            for (_, opened), (kept, registered, *values) in zip(theirs, rows, strict=True):
                lost_until = max(whole, int(kept)) if kept else max(since, now - KEEP_MS)
                lost = opened <= lost_until and int(registered or -1) != registered_in(whole)
                for name, value in zip(names, values, strict=True):
                    if value is not None or lost:
                        by = _text(value or b"").partition(" ")[2]
                        found[name] = found.get(name) or by
        return found

    def marks(self, session: str, opened: int, lifts: str | None = None) -> tuple[bool, dict[str, str]]:
        """Return the marks of a session, or lift one of them; for the mint.

        Args:
            session: The session.
            opened: When it was opened, ms since the Unix epoch.
            lifts: The mark that is lifted, wherever in the session it is set; None to lift nothing.

        Returns:
            Whether marks may be lost: then each warning counts as set, and nothing was lifted.  And the fields of the
            marks, or of the lifted one, with time, tool and service of the call, as ``MarkQuestion`` has them.

        Raises:
            StoreError: The server did not answer or refused; what it did is unknown.
        """
        args = (opened, *([] if lifts is None else [lifts]))
        lost, *fields = run(self._call("arx2_marks", self._bucket_of(session), (), args, None, session))
        texts = [*map(_text, fields)]
        return bool(lost), dict(zip(texts[::2], texts[1::2], strict=True))

    def register(self, pools: Sequence[PoolDraw]) -> bool:
        """Let pools that were opened before the ledger's beginning be drawn on.  SPEC 17.5.

        For the mint alone, before it has signed a token that names them.

        Args:
            pools: New pools.

        Returns:
            Whether they can be drawn on now.  False if another server may give out pools beside this one.

        Raises:
            StoreError: The server did not answer or refused; what it did is unknown.
        """
        bucket = self._bucket(pools)
        # As of the last look: a call is needed only in the minute after a beginning.
        if all(draw.opened > bucket.since for draw in pools):
            return True
        args: list[Any] = []
        for draw in pools:
            args += draw[1:4]
        return bool(run(self._call("arx2_register", bucket, pools, args)))

    @by_steps
    def settle(self, op: str, used: Sequence[tuple[PoolDraw, int]]) -> Steps[Short | None]:
        """Settle a reservation or a lease; see ``Ledger``.

        Raises:
            StoreError: The server did not answer or refused; a repeat is safe.
        """
        args: list[Any] = [op]
        for draw, amount in used:
            args += (*draw[1:4], amount)
        draws = [draw for draw, _ in used]
        answer = yield from self._call("arx2_settle", self._bucket(draws), draws, args)
        return None if answer[0] in (b"OK", "OK") else Short(answer[1], answer[2])

    @by_steps
    def undo(self, draws: Sequence[PoolDraw]) -> Steps[None]:
        """Give back a draw; see ``Ledger``.

        Raises:
            StoreError: The server did not answer or refused; then it is not repeated, and the amount stays drawn.
        """
        args: list[Any] = []
        for draw in draws:
            args += draw[1:5]
        yield from self._call("arx2_undo", self._bucket(draws), draws, args)

    def top_up(self, pool: str, amount: int, opened: int | None = None) -> int | None:
        """Add to a pool; an operator's act.

        Args:
            pool: The pool's identity.
            amount: Millionths.
            opened: When it was opened, ms since the Unix epoch; None if the caller does not know it.

        Returns:
            What the pool has left, millionths; -1 if it would be topped up by more than a pool may have in all; None if
            the ledger does not know the pool.

        Raises:
            StoreError: The server did not answer or refused; what it did is unknown.
        """
        period_ms = PERIOD_MS[pool.rpartition("/")[2]]
        draw = PoolDraw(pool, 0, period_ms, -1 if opened is None else opened, amount, MAX_AMOUNT)
        bucket = self._place([pool]).get(pool)
        answer = -2 if bucket is None else run(self._call("arx2_top_up", bucket, [draw], draw[2:6]))
        return None if answer == -2 else int(answer)

    def shown(self, task: str | None = None, link: str | None = None) -> list[dict[str, Any]]:
        """Return the pools that were drawn on last, at most 1000, for people.

        Args:
            task: Only those of this task.
            link: Only those of this delegation.

        Returns:
            For each pool its identity, its amounts in millionths, and when it was drawn on last; 0 for never.

        Raises:
            StoreError: The server did not answer or refused.
        """
        match, of = f"{task or '*'}/{link or '*'}/*", (task, link)

        def those(server: Any, at: _Names) -> dict[bytes, float]:
            # In parts: the index has the pools of all tasks of a week, and one long answer would make calls wait.
            part = server.zscan_iter(at.pools, match, _PART)
            # A `*` also matches slashes: a holder could give its pool the name of another one's link.
            return {name: when for name, when in part if all(map(_is_or_any, of, name.decode().split("/")))}

        return self.read(self._newest(those))

    def latest(self) -> list[str]:
        """Return the identities of the pools that were drawn on last, at most ``MOST_SHOWN``, the last one first.

        Raises:
            StoreError: The server did not answer or refused.
        """
        return self._newest(lambda server, at: dict(server.zrevrange(at.pools, 0, MOST_SHOWN - 1, withscores=True)))

    def _newest(self, question: Callable[[Any, _Names], dict[bytes, float]]) -> list[str]:
        """Ask each bucket for pools; return at most ``MOST_SHOWN``, the last one that was drawn on first."""
        known: dict[bytes, float] = {}
        for bucket in self._buckets.values():
            part = self._read(bucket, question)
            known |= part
            self._remember_places(bucket, part)
        newest = sorted(known, key=lambda name: (known[name], name), reverse=True)
        return [name.decode() for name in newest[:MOST_SHOWN]]

    def read(
        self,
        pools: Sequence[str],
        granted: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        session: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return pools as ``shown`` does; without those that no call has drawn on, unless they are granted.

        Args:
            pools: The pools' identities.
            granted: Of pools that a call may draw on, ``max`` in millionths, and when they were opened, ms since the
                Unix epoch.
            session: The session of all of them, if the caller knows it; without it, granted ones are not shown in a
                cluster.

        Raises:
            StoreError: The server did not answer or refused.
        """
        places = self._place(pools) if session is None else dict.fromkeys(pools, self._bucket_of(session))
        shown: dict[str, dict[str, Any]] = {}
        for bucket in dict.fromkeys(places.values()):
            names = [name for name in pools if places.get(name) is bucket]
            now, since, whole = run(self._call("arx2_ledger", bucket, (), ()))
            for name, row in zip(names, self._read(bucket, partial(_rows_of, names)), strict=True):
                if row[0] is not None:
                    shown[name] = show_pool(name, row, now, since, whole)
                elif name in granted:
                    most, opened = granted[name]
                    shown[name] = show_pool(name, (0, 0, 0, 0, 0, -1, most, 0, opened), now, since, whole)
        return [shown[name] for name in pools if name in shown]

    def clocks(self) -> tuple[int, int]:
        """Return the server's clock, and the latest time that the ledger has seen, 0 for none; ms since the Unix epoch.

        In a cluster the clock is the one that is the farthest from this process's.

        Raises:
            StoreError: The server did not answer or refused.
        """
        seen, clocks = 0, []
        for bucket in self._buckets.values():
            (seconds, rest), its = self._read(bucket, lambda server, _: server.time()), self._seen(bucket)
            clocks.append(seconds * 1000 + rest // 1000)
            seen = max(seen, its)
        here = now_ms()
        return max(clocks, key=lambda clock: abs(clock - here)), seen

    def _seen(self, bucket: _Bucket) -> int:
        return int(self._read(bucket, lambda server, at: server.hget(at.header, "seen")) or 0)

    def begin_anew(self) -> None:
        """Exhaust all open pools, and go on with the server's clock, if an earlier clock was ahead; an operator's act.

        The server's clock must be right: pools that are opened later than a minute after it can be drawn on.

        Raises:
            StoreError: The server did not answer or refused.
        """
        # The pools stay: one of a period that has not come yet has what was drawn from it.
        for bucket in self._buckets.values():
            self._read(bucket, lambda server, at: server.delete(at.header))
            run(self._call("arx2_ledger", bucket, (), ()))

    def reload(self) -> None:
        """Exhaust all open pools, and load this version's functions with a new secret; an operator's act.

        A pool per hour or day is full again in its next period, and tasks that start a minute later have budgets.

        Raises:
            StoreError: The server did not answer or refused.
        """
        self._hide()
        before = {bucket: self._read(bucket, lambda _, at: at) for bucket in self._buckets.values()}
        for bucket in self._primaries().values():
            self._read(bucket, self._load_anew)
        for bucket, old in before.items():
            self._read(bucket, partial(_move, old))
            run(self._call("arx2_ledger", bucket, (), ()))

    def _primaries(self) -> dict[FoundShard | None, _Bucket]:
        """Return a bucket of each primary; of the only server, if it is no cluster."""
        buckets = self._buckets.values()
        return {self._ask(self._client.shard_of, each.tag) if self._in_cluster else None: each for each in buckets}

    def _load_anew(self, server: Any, _: _Names) -> None:
        for source in self._store.libraries:
            server.function_load(source, replace=True)

    def seal(self, seal: str) -> bool:
        """Have the ledger change nothing from here on; return whether there is something that a next start can keep.

        Only before its server ends: until ``open`` every call is refused.

        Args:
            seal: A new and secret name of this end.

        Raises:
            StoreError: The server did not answer or refused; whether it is sealed is unknown.
        """
        return self._end_or_begin("arx2_seal", seal)

    def sealed(self) -> str:
        """Return the seal of the data; empty if there is none.

        Raises:
            StoreError: The server did not answer or refused.
        """
        return (self._read(self._buckets[""], lambda server, at: server.hget(at.header, "sealed")) or b"").decode()

    def open(self, seal: str) -> bool:
        """Have a ledger whose server has just started go on; return whether it keeps the pools that it has.

        Args:
            seal: The seal of the last end, if this is the first start after it; else empty.

        Raises:
            StoreError: The server did not answer or refused.
        """
        # Data of an earlier version have its functions, and this process has given out nothing yet.
        self._read(self._buckets[""], lambda server, _: server.function_load(self._store.libraries[0], replace=True))
        return self._end_or_begin("arx2_open", seal)

    def _end_or_begin(self, name: str, seal: str) -> bool:
        one = self._buckets[""]
        call = self._store.call(name, len(one.keys), *one.keys, seal, tag=one.tag)
        return bool(self._ask(run, call))

    def start(self) -> None:
        """Note that the ledger exists, if it answers, and look at it from now on; see ``Ledger``."""
        self._look()
        self._watch()

    def _look(self) -> None:
        with suppress(ArxError):
            self._load_where_new()
        silent = set()
        for bucket in self._buckets.values():
            # In a cluster a verifier looks at those that it has drawn on: only there it can have seen another server.
            if self._in_cluster and not bucket.remembered:
                continue
            place = None
            # The next look, or the first call, tries again.
            try:
                place = self._ask(self._client.shard_of, bucket.tag) if self._in_cluster else None
                if place not in silent:
                    bucket.since = run(self._call("arx2_ledger", bucket, (), ()))[1]
            except ArxError:
                silent.add(place)

    def _load_where_new(self) -> None:
        """Load all functions into each primary of a cluster, with one secret, also if it has those of budgets alone."""
        if len(self._store.libraries) == 1:
            return
        places = self._primaries()
        if self._loaded >= places.keys():
            return
        # Those with functions come first, so that all nodes get one secret: a slot moves with the names of its keys.
        for place, bucket in sorted(places.items(), key=lambda each: each[0] not in self._loaded):
            if place in self._loaded or self._store.could_load(bucket.tag):
                found = _SECRET.search(self._read(bucket, lambda _, at: at.header))
                if found:
                    self._hide(found[1])
                self._loaded.add(place)

    def _watch(self) -> None:
        """Look at the ledger's beginning from time to time.

        So a restart is noted when it happens and not with the next call, and a verifier without calls remembers the
        beginning of each server that was the ledger for a while.
        """
        self._looks_in, self._lock, self._stop = os.getpid(), threading.Lock(), threading.Event()
        self._looker = threading.Thread(target=self._keep_looking, args=(self._stop,), name="arx-ledger", daemon=True)
        self._looker.start()

    def _keep_looking(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_S):
            self._look()

    def close(self) -> None:
        """Close the connections."""
        self._stop.set()
        if self._looker is not None and self._looks_in == os.getpid():
            self._looker.join(LOOK_S)
        self._looks_in, self._looker = 0, None
        self._client.close()

    def _bucket_of(self, session: str) -> _Bucket:
        return self._buckets[bucket_of(session.encode()) if self._in_cluster else ""]

    def _bucket(self, draws: Sequence[PoolDraw]) -> _Bucket:
        """Return the bucket of a call's pools, which are all of one session."""
        return self._bucket_of(draws[0].session)

    def _place(self, pools: Sequence[str]) -> Mapping[str, _Bucket]:
        """Return the buckets of pools; without those that no call has drawn on in a cluster."""
        if not self._in_cluster:
            return dict.fromkeys(pools, self._buckets[""])
        unknown = [pool for pool in pools if pool not in self._places]
        for bucket in self._buckets.values() if unknown else ():
            rows = self._read(bucket, partial(_rows_of, unknown))
            self._remember_places(bucket, [pool.encode() for pool, row in zip(unknown, rows, strict=True) if any(row)])
        return {pool: self._places[pool] for pool in pools if pool in self._places}

    def _remember_places(self, bucket: _Bucket, pools: Iterable[bytes]) -> None:
        if self._in_cluster:
            if len(self._places) > _MOST_PLACES:
                self._places.clear()
            self._places |= dict.fromkeys([pool.decode() for pool in pools], bucket)

    def _read(self, bucket: _Bucket, question: Callable[[Any, _Names], Any]) -> Any:
        """Ask the server of a bucket, given a client of it and the names of its keys."""

        def ask() -> Any:
            server = self._client.server(bucket.tag)
            return question(server, bucket.names(secret_of(server, bucket.keys[0])))

        return self._ask(ask)

    def _call(
        self,
        name: str,
        bucket: _Bucket,
        draws: Sequence[PoolDraw],
        args: Sequence[Any],
        used: UsedKey | None = None,
        marked: str | None = None,
    ) -> Steps[Any]:
        if self._looks_in not in (0, os.getpid()):
            self._watch()  # a forked child has no thread of its parent
        keys = [*bucket.keys, *[bucket.pool + draw.pool for draw in draws]]
        if marked is not None:
            keys.append(bucket.mark + marked)
        if bucket.remembered == NEW:
            yield from self._compare(bucket)
        for _ in range(_TURNS):
            words = (len(keys), *keys, bucket.remembered, *args)
            with self._store:
                if used is None:
                    answer = yield from self._store.call(name, *words, tag=bucket.tag)
                else:
                    answer = yield from self._spend_and_call(bucket, used, *words)
            used = None  # from here on it is spent
            if answer is None:
                continue
            if not isinstance(answer, list) or answer[0] not in (b"BEGUN", "BEGUN"):
                return answer
            if not self._remember(bucket, answer[1]) and self._recalls:
                yield from self._compare(bucket)
        raise StoreError("the ledger has another beginning with each call: two servers answer at its address")

    def _compare(self, bucket: _Bucket) -> Steps[None]:
        """Have a ledger begin anew if this mint remembers a newer beginning; of a service it would need a MAC."""
        with self._store:
            words = ("arx2_register", len(bucket.keys), *bucket.keys, bucket.remembered)
            answer = yield from self._store.call(*words, tag=bucket.tag)
        if isinstance(answer, list):
            self._remember(bucket, answer[1])

    def _remember(self, bucket: _Bucket, answer: bytes | str) -> bool:
        """Remember a beginning if it is newer; return whether what is remembered is another one than before."""
        beginning = _text(answer)
        with self._lock:
            before = bucket.remembered
            # Another thread may have seen a newer one meanwhile.
            if number_of(beginning) > number_of(before):
                bucket.remembered = self._note(bucket.name, beginning)
            return bucket.remembered != before

    def _spend_and_call(self, bucket: _Bucket, used: UsedKey, count: int, *words: Any) -> Steps[Any]:
        """Spend a key and take, at once if the server can; return None if the key alone was spent."""
        try:
            words = ("arx2_call", count + 1, used.name, *words, used.keep_ms)
            return (yield from self._store.call(*words, tag=bucket.tag))
        except Exception as error:
            if not cannot_call(error):
                raise
            # The server keeps functions of an earlier version, or does not permit this user to do both at once.
            # If it permits only no loading, another user, such as the mint's, may load them later.
            self._spends = LOAD in str(error)
        spend = ("SET", used.name, b"", "NX", "PX", used.keep_ms)
        return None if (yield from self._client.command(*spend, tag=bucket.tag)) else (b"USED",)

    def load(self) -> None:
        """Load the functions into a server that has none.

        Raises:
            StoreError: The server did not answer, or does not let this user load functions.
        """
        for bucket in self._primaries().values():
            self._ask(lambda bucket=bucket: run(self._store.load(bucket.tag)))

    def _ask(self, function: Callable[..., Any], *args: Any) -> Any:
        with self._store:
            try:
                return function(*args)
            except Exception:
                if self._in_cluster:
                    self._client.doubt()
                raise


def _text(answer: Any) -> str:
    return answer.decode() if isinstance(answer, bytes) else str(answer)


def _keep(_: str, beginning: str) -> str:
    return beginning


def secret_of(server: Any, header: str) -> str:
    """Return the secret in the names of a ledger's keys; empty if its functions have none.

    Args:
        server: A client of the server.
        header: The header's key without it.

    Raises:
        redis.RedisError: The server did not answer, or does not permit this user to know it.
    """
    try:
        secret = server.execute_command("FCALL", "arx2_names", 1, header)
    except Exception as error:
        if "unction not found" in str(error):  # none yet, or those of an earlier version
            return ""
        raise
    return _text(secret)


def _move(old: _Names, server: Any, new: _Names) -> None:
    """Give pools their new names: one of a period that has not come yet has what was drawn from it."""
    server.delete(old.header)
    for name, at in server.zscan_iter(old.pools, count=_PART):
        if server.hlen(old.pool + name.decode()):  # a call of before may have forgotten it meanwhile
            server.rename(old.pool + name.decode(), new.pool + name.decode())
        server.zadd(new.pools, {name: at})
    # Each session of before is lost now, so what it has is of no use.
    for name, _ in server.zscan_iter(old.marks, count=_PART):
        server.delete(old.mark + name.decode())
    # The last: a pool of a later period, on which calls drew meanwhile, may have been replaced.
    server.delete(old.pools, old.marks, new.header)


def _rows_of(pools: Sequence[str], server: Any, at: _Names) -> Any:
    pipeline = server.pipeline(transaction=False)
    for name in pools:
        pipeline.hmget(at.pool + name, *COLUMNS)
    return pipeline.execute()


def _warnings_of(sessions: Sequence[str], names: Sequence[str], server: Any, at: _Names) -> Any:
    pipeline = server.pipeline(transaction=False)
    for session in sessions:
        pipeline.hmget(at.mark + session, "s", "o", *[f"w:s:{name}" for name in names])
    return pipeline.execute()


def _is_or_any(wanted: str | None, part: str) -> bool:
    return wanted is None or wanted == part


def show_pool(name: str, row: Sequence[Any], now: int, since: int, whole: int) -> dict[str, Any]:
    """Return a pool as ``RedisLedger.shown`` does.

    Args:
        name: Its identity.
        row: Its fields, those of ``COLUMNS``.
        now: The ledger's time, ms since the Unix epoch.
        since: Pools that were opened before may have lost draws, ms since the Unix epoch.
        whole: The same for pools that were drawn on in their period.
    """
    task, link, pool, unit, per = name.split("/")
    period, committed, reserved, leased, extra, reopened, most, at, opened = (int(value) for value in row)
    length = PERIOD_MS[per]
    over = length > 0 and now // length > period
    if over:
        committed = reserved = leased = extra = 0
        reopened = reopened if since == whole and reopened == registered_in(whole) else -1
        period = now // length
    begun = max(opened, period * length)
    lost = begun <= (whole if at and not over else since) and reopened not in (whole, registered_in(whole))
    lost = lost or (not at and begun <= now - KEEP_MS)
    limit = extra if reopened >= 0 else most + extra
    used = committed + reserved + leased
    return {
        "id": name,
        "task": task,
        "link": None if link == "-" else link,
        "pool": pool,
        "unit": unit,
        "per": per,
        "max": most,
        "topped_up": extra,
        "committed": committed,
        "reserved": reserved,
        "leased": leased,
        "remaining": 0 if lost else max(0, limit - used),
        "lost": lost,
        "opened_at": opened,
        "drawn_at": at,
        "ends_at": (period + 1) * length if length else None,
    }
