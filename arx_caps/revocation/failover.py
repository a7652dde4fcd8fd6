# SPDX-License-Identifier: Apache-2.0
"""Detect that the store failed over to another server, and end or continue its history.  SPEC 10.

The fence is in ``functions.lua``: a server grants no lease until a mint has attested its replication id, which changes
with each promotion and each restart.
``mint.revocation.store_history`` decides whether a store went back.
"""

from typing import Final, NamedTuple

from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import Header, Replication, StoreHistoryError, read_header, read_replication
from arx_verifier.errors import StoreError

DEFAULT_WINDOW_MS: Final = 24_000  # above a cluster's default node time-out and min-replicas-max-lag's default
FIELDS: Final = ("incarnation", "seq", "had_replica", "replid", "node", "lag_ms", "replicas")
HOUR_MS: Final = 60 * 60 * 1000  # how often a mint records that the server has replicas
FORGOTTEN: Final = "the store has lost kills"
FAILED_OVER: Final = "the store failed over to another server, which may lack kills"


# A promoted replica may lack kills that the old primary acknowledged.  So the mint ends the history (`rotate`), or goes
# on where no kill can be lost (`trust`: every replica had each kill on disk).  A server that only restarted lacks
# nothing: Sentinels or a cluster identify it, and a server at a plain address that has no replica.
class Topology(NamedTuple):
    """The replication of a store, as its operator configured it.

    Attributes:
        replicas: How many replicas must have a kill on disk before it is acknowledged.
        on_failover: ``rotate`` or ``trust``.
        window_ms: How long a deposed primary may go on answering, ms: ``min-replicas-max-lag`` and two seconds, or one
            and a half of a cluster's node time-out and half a second.
    """

    replicas: int = 0
    on_failover: str = "rotate"
    window_ms: int = DEFAULT_WINDOW_MS


class Look(NamedTuple):
    """A server's identity now, and as a mint recorded it.

    Attributes:
        incarnation: The history.
        seq: Its last number.
        node: The Sentinels' or the cluster's name of the server; empty without them.
        known: The recorded replication id, node and settings.
        server: What it shows of its replication.
        had_replica_ms: When a replica was recorded last, by the store's clock, ms since the Unix epoch; 0 for never.
        at_ms: The store's clock, ms since the Unix epoch.
    """

    incarnation: str
    seq: int
    node: str
    known: tuple[str, ...]
    server: Replication
    had_replica_ms: int
    at_ms: int

    @property
    def replicas(self) -> int:
        """Number of replicas that may be promoted; -1 if the server hides it."""
        return self.server.promotable(self.had_replica_ms, self.at_ms)


def look(store: RevocationStore) -> Look:
    """Read the identity of the server that answers now, and the recorded one.

    Args:
        store: The realm's store.

    Raises:
        StoreError: It does not answer, or is a replica.
        StoreHistoryError: The realm has no history in it.
    """
    commands = ("HMGET", store.keys.header, *FIELDS), ("INFO", "replication"), ("TIME",)
    (fields, info, time), node = store.exchange.read_together(*commands)
    server = read_replication(info)
    if server.role != "master":
        store.exchange.forget_connections()
        raise StoreError("the server that answers is a replica")
    if fields[0] is None:
        raise StoreHistoryError("NOINIT", "the realm has no history in this store")
    incarnation, seq, had_replica, *known = (value.decode() if value is not None else "" for value in fields)
    at_ms = int(time[0]) * 1000 + int(time[1]) // 1000
    return Look(incarnation, int(seq), node, tuple(known), server, int(had_replica or 0), at_ms)


def must_attest(store: RevocationStore, topology: Topology) -> bool:
    """Return whether a mint must attest the server that answers before it grants leases.

    Args:
        store: The realm's store.
        topology: Its replication.

    Raises:
        StoreError: It does not answer, or is a replica.
        StoreHistoryError: The realm has no history in it.
    """
    seen = look(store)
    forgotten = bool(seen.server.connected) and seen.at_ms - seen.had_replica_ms > HOUR_MS
    return forgotten or seen.known != _terms(seen, topology, store.fails_over)


def attest(
    store: RevocationStore, topology: Topology, *, seq_at_least: int = 0, max_ttl_ms: int = 0
) -> tuple[Header, str | None]:
    """Let the server that answers grant leases; end the history first if kills may be missing.

    Args:
        store: The realm's store.
        topology: Its replication.
        seq_at_least: The highest known sequence: below it the history ends, and a new one begins after it.
        max_ttl_ms: The longest life of a token in a new history, ms; 0 to keep it.

    Returns:
        The state of the history, and why it had to begin anew, or None.

    Raises:
        StoreHistoryError: The server changed again meanwhile; attest again.
        StoreError: It does not answer, or is a replica.
    """
    seen = look(store)
    why, incarnation = _why_rotate(seen, topology, store.fails_over), seen.incarnation
    # The caller has compared the store with what it knows, but perhaps another server: an address can move meanwhile.
    if why is None and seen.seq < seq_at_least:
        why = FORGOTTEN
    if why is not None:
        incarnation = store.rotate(seq_at_least=seq_at_least, max_ttl_ms=max_ttl_ms).header.incarnation
    replid, node, *settings = _terms(seen, topology, store.fails_over)
    guard = "1"  # the functions of earlier versions let an unattested server grant leases without it
    reply = store.exchange.call("arx1_attest", store.keys.attested, incarnation, replid, node, guard, *settings)
    if reply[6] == b"CORRUPT":
        why = "the store has lost entries, or was changed without its functions"
        return store.rotate(seq_at_least=seq_at_least, max_ttl_ms=max_ttl_ms).header, why
    return read_header(reply), why


def _why_rotate(seen: Look, topology: Topology, fails_over: bool) -> str | None:
    """Return why the history has to end, or None if it can continue."""
    replid, node = seen.known[:2]
    if replid in ("", seen.server.replid) or topology.on_failover == "trust":
        return None
    if node and node == seen.node:
        return None  # the same server restarted with its own file
    # A promoted replica names its primary, until it restarts.  Without a sign of a replica only a restart remains.
    if _is_replicated(seen, topology, fails_over) or seen.server.promoted_from == replid:
        return FAILED_OVER
    return None


def _is_replicated(seen: Look, topology: Topology, fails_over: bool) -> bool:
    """Return whether another server can take this one's place: by settings, or by what the server shows or hides."""
    return fails_over or topology.replicas > 0 or seen.replicas != 0


def _terms(seen: Look, topology: Topology, fails_over: bool) -> tuple[str, str, str, str]:
    """Return what a mint records of an attested server: replication id, node, window and replicas."""
    lag_ms = topology.window_ms if _is_replicated(seen, topology, fails_over) else 0
    return seen.server.replid, seen.node, str(lag_ms), str(topology.replicas)
