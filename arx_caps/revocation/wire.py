# SPDX-License-Identifier: Apache-2.0
"""Names of a realm's keys in the store, the shapes of its answers, and its errors in our words.  SPEC 10.

The functions behind them are in ``functions.lua``; ``store`` calls them.
"""

import contextlib
from typing import Any, Final, NamedTuple

import msgspec
import redis

from arx_verifier.errors import StoreError
from arx_verifier.revocation.history import Place
from arx_verifier.revocation.store_link import Crowd
from arx_verifier.revocation.store_url import CertificateError, FinderLoginError

HISTORY_ERRORS: Final = ("NOINIT", "INCARNATION", "REGRESSED", "UNATTESTED")

AHEAD: Final = "!ahead:"  # as the functions name the word of a verifier that knows another past
MOST: Final = float(2**53)  # above what a sequence can reach


class StoreHistoryError(StoreError):
    """The store is not in the history that the caller knows.

    Attributes:
        kind: ``NOINIT`` (no header), ``INCARNATION`` (another history), ``REGRESSED`` (it has lost entries),
            ``UNATTESTED`` (it has changed hands).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class OutcomeUnknownError(StoreError):
    """The store may or may not have taken a kill; it must be repeated, which is harmless."""


class Keys(NamedTuple):
    """The keys of a realm; one hash tag, so one slot of a cluster."""

    header: str
    kills: str
    freezes: str
    retention: str
    log: str
    probes: str
    acks: str
    relays: str

    @classmethod
    def of(cls, realm: str) -> "Keys":
        """Name them."""
        return cls(*(f"arx:{{{realm}}}:{part}" for part in ("h", "k", "f", "x", "log", "v", "a", "r")))

    @property
    def written(self) -> tuple[str, ...]:
        """The keys of init and bump."""
        return self.header, self.kills, self.freezes, self.retention, self.log

    @property
    def attested(self) -> tuple[str, ...]:
        """The keys of attest."""
        return self.header, self.kills, self.freezes, self.log

    @property
    def all(self) -> tuple[str, ...]:
        """The keys of rotate."""
        return (*self.written, self.probes, self.acks)

    @property
    def registry(self) -> tuple[str, ...]:
        """The keys of unacked."""
        return self.probes, self.acks, self.relays


class Header(NamedTuple):
    """Where a realm's history stands.

    Attributes:
        incarnation: The history's name.
        seq: Its last entry.
        at_ms: The store's clock.
        lease_ms: The longest lease in force.
        lag_ms: How long a primary deposed within the last minute may still grant leases; 0 when none was.
        chain: What led to ``seq``.
    """

    incarnation: str
    seq: int
    at_ms: int
    lease_ms: int
    lag_ms: int
    chain: str

    @property
    def place(self) -> Place:
        """Where the history stands, and by which way it came there."""
        return Place(self.incarnation, self.seq, self.chain)


class Bump(NamedTuple):
    """An acknowledged kill, freeze or thaw.

    Attributes:
        op: kill, freeze, kill+freeze or thaw.
        targets: What it names.
        header: Where the history stands after it.
        durable: Whether the store has it on disk, and on the replicas asked for.
        sent: Monotonic clock at the call, s.
    """

    op: str
    targets: tuple[str, ...]
    header: Header
    durable: bool
    sent: float


class Registry(NamedTuple):
    """What the store knows about its verifiers.

    Attributes:
        at_ms: The store's clock.
        since_ms: When this registry began.
        verifiers: How many were heard of in the time asked for, themselves or through a relay.
        confirmed: How many of them have applied the sequence asked for.
        missing: The others: id, last probe (ms), applied, and for how many it stands: a relay for all behind it.
    """

    at_ms: int
    since_ms: int
    verifiers: int
    confirmed: int
    missing: tuple[tuple[str, int, int, int], ...]


class Ahead(NamedTuple):
    """A verifier that says it has applied what the store never gave, or gave to something else.

    Attributes:
        verifier: Its name.
        seq: The number that it says.
    """

    verifier: str
    seq: int


class VerifierSeen(NamedTuple):
    """One verifier in the registry, or a relay.

    Attributes:
        id: Its name.
        age_ms: Since its last probe.
        applied: What it had applied then, for a relay what all behind it had; -1 before its first copy.
        behind: How many verifiers a relay stands for; None for a verifier itself.
    """

    id: str
    age_ms: int
    applied: int
    behind: int | None = None


class Entry(NamedTuple):
    """One line of the log: who did what to which target, when and why."""

    seq: int
    op: str
    target: str
    at_ms: int
    by: str
    why: str


def text(value: Any) -> str:
    """Decode a string of the store.

    Raises:
        StoreError: It is none.
    """
    if not isinstance(value, bytes):
        raise StoreError("the store answered in an unknown form")
    return value.decode("utf-8", "replace")


def read_header(reply: Any) -> Header:
    """Read the first members of an answer.

    Raises:
        StoreError: They are not there.
    """
    try:
        incarnation, seq, at_ms, lease_ms, lag_ms, chain = reply[:6]
        return Header(text(incarnation), int(seq), int(at_ms), int(lease_ms), int(lag_ms), text(chain))
    except (TypeError, ValueError) as error:
        raise StoreError("the store answered in an unknown form") from error


def read_registry(reply: Any, seq: int, since_ms: int) -> Registry:
    """Read who has not applied ``seq``, of those heard of since then.

    Raises:
        StoreError: It has another form.
    """
    try:
        at_ms, began_ms, heard = int(reply[0]), int(reply[1]), int(reply[2])
        relays = {text(name): read_crowd(crowd) for name, _, crowd in reply[4]}
        missing = [
            (name, int(last), int(applied), relays[name].verifiers if name in relays else 1)
            for name, last, applied in ((text(name), last, applied) for name, last, applied in reply[3])
        ]
    except (TypeError, ValueError, IndexError) as error:
        raise StoreError("the store answered in an unknown form") from error
    late = [one for crowd in relays.values() for one in crowd.late if one.heard_ms >= since_ms]
    missing += [(one.name, one.heard_ms, one.applied, one.verifiers) for one in late if one.applied < seq]
    stood_for = sum(crowd.verifiers for crowd in relays.values()) + sum(one.verifiers for one in late)
    verifiers = heard - len(relays) + stood_for
    # A relay with nobody behind it is waited for, too: whoever comes to it would get a lease without the kill.
    return Registry(at_ms, began_ms, verifiers, verifiers - sum(one[3] for one in missing), tuple(missing))


def read_ahead(reply: Any) -> Ahead | None:
    """Read the first of the members that the functions keep of verifiers which know another past, or None."""
    for member, score in reply:
        return Ahead(text(member).removeprefix(AHEAD), int(min(-2 - float(score), MOST)))
    return None


def read_crowd(value: Any) -> Crowd:
    """Read what a relay says of those behind it; one that cannot be read stands for a verifier that never confirms."""
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(value, type=Crowd)
    return Crowd(1, -1, ())


def read_entry(reply: Any) -> Entry:
    """Read one entry of the log.

    Raises:
        StoreError: It is none.
    """
    try:
        key, fields = reply
        members = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
        at = {text(name): text(value) for name, value in members.items()}
        return Entry(int(key.split(b"-")[0]), at["op"], at["s"], int(at["t"]), at["by"], at["why"])
    except (TypeError, ValueError, KeyError) as error:
        raise StoreError("the store's log has an entry of an unknown form") from error


def is_elsewhere(error: Exception) -> bool:
    """Whether a server refused because it is, for now, not the one to ask; nothing was written then."""
    kinds = (redis.ReadOnlyError, redis.exceptions.ClusterError, redis.exceptions.AskError)
    more = (redis.exceptions.TryAgainError, redis.exceptions.BusyLoadingError)
    return isinstance(error, kinds + more) or str(error).startswith(("NOREPLICAS", "READONLY"))


def told(error: Exception) -> StoreError:
    """Put an error of the client library into our words; never with an address, which may hold a password."""
    said = str(error)
    for kind in HISTORY_ERRORS:
        if said.startswith(kind):
            return StoreHistoryError(kind, said.removeprefix(kind).strip())
    if isinstance(error, FinderLoginError | CertificateError):
        return StoreError(said)
    if isinstance(error, redis.AuthenticationError):
        return StoreError(
            "the store refused the user or password: set ARX_STORE_PASSWORD, or the login in the store's address"
        )
    if isinstance(error, redis.exceptions.NoPermissionError):
        return StoreError("the store does not permit this user to do that; `arx redis acl` prints what each role needs")
    if is_elsewhere(error):
        return StoreError(
            "the server that answers takes no writes: it is a replica, cut off, or not the owner any more"
        )
    if "unction not found" in said:
        return StoreError(
            "the ARx functions are not loaded in this store: load them as its administrator, `arx redis load`"
        )
    if isinstance(error, redis.ResponseError):
        return StoreError(f"the store refused: {said}")
    return StoreError("the store did not answer")
