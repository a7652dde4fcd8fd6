# SPDX-License-Identifier: Apache-2.0
"""Detect that the store failed over to another server, and end or continue its history.  SPEC 10.

The fence is in ``functions.lua``: after a change of server the store grants no lease until a mint has attested it.
``mint.revocation.store_history`` decides whether a store went back.
"""

from typing import Any, Final, NamedTuple

from arx_caps.revocation.exchange import ask
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import Header, StoreHistoryError, read_header, text
from arx_verifier.errors import StoreError

DEFAULT_WINDOW_MS: Final = 24_000  # above a cluster's default node time-out and min-replicas-max-lag's default
FIELDS: Final = ("incarnation", "replid", "node", "guard", "lag_ms", "replicas")


# A promoted replica may lack kills that the old primary acknowledged.  So the mint ends the history (`rotate`), or goes
# on where no kill can be lost (`trust`: every replica had each kill on disk).  A server that only restarted, according
# to its Sentinels or its cluster, lacks nothing.
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
        replid: The replication id, which changes at each promotion and each restart.
        node: The Sentinels' or the cluster's name of the server; empty without them.
        known: The recorded replication id, node and settings.
    """

    incarnation: str
    replid: str
    node: str
    known: tuple[str, ...]


def look(store: RevocationStore) -> Look:
    """Read the identity of the server that answers now, and the recorded one.

    Args:
        store: The realm's store.

    Raises:
        StoreError: It does not answer, or is a replica.
        StoreHistoryError: The realm has no history in it.
    """
    exchange = store.exchange

    def see() -> tuple[Any, str, str]:
        with exchange.connection() as connection:  # one connection: both answers come from the same server
            fields, info = ask(connection, ("HMGET", store.keys.header, *FIELDS), ("INFO", "replication"))
            for answer in (fields, info):
                if isinstance(answer, Exception):
                    raise answer
            return fields, text(info), str(getattr(connection, "node", ""))

    fields, info, node = exchange.once(see)
    facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    if facts.get("role") != "master":
        exchange.forget_connections()
        raise StoreError("the server that answers is a replica")
    if fields[0] is None:
        raise StoreHistoryError("NOINIT", "the realm has no history in this store")
    incarnation, *known = (value.decode() if value is not None else "" for value in fields)
    return Look(incarnation, facts["master_replid"], node, tuple(known))


def must_attest(store: RevocationStore, topology: Topology) -> bool:
    """Return whether a mint must attest the server that answers before it grants leases.

    Args:
        store: The realm's store.
        topology: Its replication.

    Raises:
        StoreError: It does not answer, or is a replica.
        StoreHistoryError: The realm has no history in it.
    """
    if not (store.fails_over or topology.replicas):
        return False  # no other server can take its place
    seen = look(store)
    return seen.known != _terms(seen, topology, store.fails_over)


def attest(
    store: RevocationStore, topology: Topology, *, seq_at_least: int = 0, max_ttl_ms: int = 0
) -> tuple[Header, str | None]:
    """Let the server that answers grant leases; end the history first if kills may be missing.

    Args:
        store: The realm's store.
        topology: Its replication.
        seq_at_least: The highest known sequence, for a new history.
        max_ttl_ms: The longest life of a token in a new history, ms; 0 to keep it.

    Returns:
        The state of the history, and why it had to begin anew, or None.

    Raises:
        StoreHistoryError: The server changed again meanwhile; attest again.
        StoreError: It does not answer, or is a replica.
    """
    seen = look(store)
    why, incarnation = _why_rotate(seen, topology, store.fails_over), seen.incarnation
    if why is not None:
        incarnation = store.rotate(seq_at_least=seq_at_least, max_ttl_ms=max_ttl_ms).header.incarnation
    terms = _terms(seen, topology, store.fails_over)
    reply = store.exchange.call("arx1_attest", store.keys.attested, incarnation, *terms)
    if reply[6] == b"CORRUPT":
        why = "the store has lost entries, or was changed without its functions"
        return store.rotate(seq_at_least=seq_at_least, max_ttl_ms=max_ttl_ms).header, why
    return read_header(reply), why


def _why_rotate(seen: Look, topology: Topology, fails_over: bool) -> str | None:
    """Return why the history has to end, or None if it can continue."""
    replid, node = seen.known[:2]
    if replid in ("", seen.replid) or topology.on_failover == "trust":
        return None
    if not (fails_over or topology.replicas):
        return None  # no other server can have taken its place
    if node and node == seen.node:
        return None  # the same server restarted with its own file
    return "the store failed over to another server, which may lack kills"


def _terms(seen: Look, topology: Topology, fails_over: bool) -> tuple[str, str, str, str, str]:
    """Return what a mint records of an attested server: replication id, node and settings."""
    replicated = fails_over or topology.replicas > 0
    guard = replicated and topology.on_failover == "rotate"
    lag_ms = topology.window_ms if replicated else 0
    return seen.replid, seen.node, str(int(guard)), str(lag_ms), str(topology.replicas)
