# SPDX-License-Identifier: Apache-2.0
"""Notice that the store is another server than before, and decide what that means for its history.  SPEC 10.

A replica that is promoted may lack kills that the old primary acknowledged.  So a store that can fail over grants no
lease until a mint has looked at it: the mint ends the history (``rotate``), or goes on with it where no kill can be
lost (``trust``: every replica had each kill on disk).  A server that only restarted, as its Sentinels or its cluster
say, lacks nothing.  The fence itself is in ``functions.lua``; connections come from ``exchange``.
"""

from typing import Any, Final, NamedTuple

from arx_caps.revocation.exchange import ask
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import Header, StoreHistoryError, read_header, text
from arx_verifier.errors import StoreError

DEFAULT_WINDOW_MS: Final = 24_000  # above a cluster's default node time-out and min-replicas-max-lag's default
FIELDS: Final = ("incarnation", "replid", "node", "guard", "lag_ms", "replicas")


class Topology(NamedTuple):
    """How a store is replicated, as its operator says.

    Attributes:
        replicas: How many replicas must have a kill on disk before it is acknowledged.
        on_failover: ``rotate`` or ``trust``.
        window_ms: How long a deposed primary may go on answering: ``min-replicas-max-lag`` and two seconds, or one and
            a half of a cluster's node time-out and half a second.
    """

    replicas: int = 0
    on_failover: str = "rotate"
    window_ms: int = DEFAULT_WINDOW_MS


class Look(NamedTuple):
    """A server as it is, and as a mint last found it.

    Attributes:
        incarnation: The history.
        replid: The replication id: another one after each promotion and each restart.
        node: What the Sentinels or the cluster call it; empty without them.
        known: The same two, and the settings, as they were written down.
    """

    incarnation: str
    replid: str
    node: str
    known: tuple[str, ...]


def look(store: RevocationStore) -> Look:
    """Look at the server that answers now, and at what is written down of it.

    Raises:
        StoreError: It does not answer, or is a replica.
        StoreHistoryError: The realm has no history in it.
    """
    exchange = store.exchange

    def see() -> tuple[Any, str, str]:
        with exchange.connection() as one:  # on one connection: what was written down, and what this very server says
            found, info = ask(one, ("HMGET", store.keys.header, *FIELDS), ("INFO", "replication"))
            for answer in (found, info):
                if isinstance(answer, Exception):
                    raise answer
            return found, text(info), str(getattr(one, "node", ""))

    found, info, node = exchange.once(see)
    facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    if facts.get("role") != "master":
        exchange.forget_connections()
        raise StoreError("the server that answers is a replica")
    if found[0] is None:
        raise StoreHistoryError("NOINIT", "the realm has no history in this store")
    incarnation, *known = (value.decode() if value is not None else "" for value in found)
    return Look(incarnation, facts["master_replid"], node, tuple(known))


def must_attest(store: RevocationStore, topology: Topology) -> bool:
    """Whether a mint has to look at the server that answers before it grants leases.

    Raises:
        StoreError: It does not answer, or is a replica.
    """
    if not (store.fails_over or topology.replicas):
        return False  # there is no other server that could take its place
    seen = look(store)
    return seen.known != _terms(seen, topology, store.fails_over)


def attest(
    store: RevocationStore, topology: Topology, *, seq_at_least: int = 0, max_ttl_ms: int = 0
) -> tuple[Header, str | None]:
    """Look at the server that answers and let it grant leases; end the history if kills may be missing in it.

    Args:
        store: The realm's store.
        topology: How it is replicated.
        seq_at_least: The highest sequence that anybody remembers, for a new history.
        max_ttl_ms: The longest life of a token in a new history, 0 to keep it.

    Returns:
        Where the history stands, and why it had to begin anew, or None.

    Raises:
        StoreHistoryError: It changed hands again meanwhile; attest again.
        StoreError: It does not answer, or is a replica.
    """
    seen = look(store)
    why, incarnation = _why_rotate(seen, topology, store.fails_over), seen.incarnation
    if why is not None:
        incarnation = store.rotate(seq_at_least=seq_at_least, max_ttl_ms=max_ttl_ms).header.incarnation
    terms = _terms(seen, topology, store.fails_over)
    reply = store.exchange.call("arx1_attest", store.keys.attested, incarnation, *terms)
    if reply[6] == b"CORRUPT":
        why = "the store has lost entries, or somebody wrote past its functions"
        return store.rotate(seq_at_least=seq_at_least, max_ttl_ms=max_ttl_ms).header, why
    return read_header(reply), why


def _why_rotate(seen: Look, topology: Topology, fails_over: bool) -> str | None:
    """Say why the history has to end, or None when it can go on."""
    replid, node = seen.known[:2]
    if replid in ("", seen.replid) or topology.on_failover == "trust":
        return None
    if not (fails_over or topology.replicas):
        return None  # there is no other server that could have taken its place
    if node and node == seen.node:
        return None  # restarted with its own file
    return "the store failed over to another server, which may lack kills"


def _terms(seen: Look, topology: Topology, fails_over: bool) -> tuple[str, str, str, str, str]:
    """Return what should be written down of a server that was looked at: its two names and the settings."""
    replicated = fails_over or topology.replicas > 0
    guard = replicated and topology.on_failover == "rotate"
    lag_ms = topology.window_ms if replicated else 0
    return seen.replid, seen.node, str(int(guard)), str(lag_ms), str(topology.replicas)
