# SPDX-License-Identifier: Apache-2.0
"""Keys of a realm in the store, forms of its answers, states of verifiers, and errors mapped to ARx errors.  SPEC 10.

``functions.lua`` has the functions that write them; ``store`` calls these.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple

import msgspec
import redis

from arx_verifier.errors import StoreError
from arx_verifier.revocation.epoch import RegistryName, show_until
from arx_verifier.revocation.history import HistoryPlace
from arx_verifier.revocation.store_link import Crowd
from arx_verifier.revocation.store_url import CertificateError, FinderLoginError, PasswordFileError

HISTORY_ERRORS: Final = ("NOINIT", "INCARNATION", "REGRESSED", "UNATTESTED")

AHEAD: Final = "!ahead:"  # prefix of a member for a verifier that names a place of another history
MOST: Final = float(2**53)  # larger than any sequence
REPLICA_MS: Final = (
    24 * 60 * 60 * 1000
)  # a replica that is away may be promoted for this time, as `functions.lua` has it


VerifierState = Literal["live", "late", "gone"]
GONE_MS: Final = 60_000  # without a probe: a restart is over by then
_LATE_LEASES: Final = 10  # without a probe: a paused process or a broken network is back within these
DIRECT: Final = " (direct, user "  # in the author of a change that the command line made at the store


class StoreHistoryError(StoreError):
    """The store is not in the history that the caller knows.

    Attributes:
        kind: ``NOINIT`` (no history), ``INCARNATION`` (another history), ``REGRESSED`` (it has lost entries),
            ``UNATTESTED`` (it has failed over).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ProofUsedError(StoreError):
    """The proof of the call that asked for a change was used before; nothing was changed."""


class OutcomeUnknownError(StoreError):
    """The store may have taken a kill, or not; repeat it, which is harmless."""


class Keys(NamedTuple):
    """The keys of a realm; they share a hash tag, and so a slot of a cluster."""

    header: str
    kills: str
    freezes: str
    retention: str
    log: str
    probes: str
    acks: str
    relays: str
    used: str

    @classmethod
    def of(cls, realm: str) -> "Keys":
        """Return the keys of a realm."""
        # The braces are a hash tag: a function of a cluster may touch keys of one slot alone.
        return cls(*(f"arx:{{{realm}}}:{part}" for part in ("h", "k", "f", "x", "log", "v", "a", "r", "u")))

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


class UsedProof(NamedTuple):
    """The proof of a call, which the store accepts once.  CONTROL 1.2.

    Attributes:
        digest: Identifies it.
        call: Identifies this call, which may repeat itself.
        until: When it expires, ms since the Unix epoch.
    """

    digest: str
    call: str
    until: int


class Header(NamedTuple):
    """The state of a realm's history.

    Attributes:
        incarnation: The history's name.
        seq: The sequence of its last entry.
        at_ms: The store's clock, ms since the Unix epoch.
        lease_ms: The longest lease in force, ms.
        lag_ms: How long a primary deposed within the last minute may still grant leases, ms; 0 without one.
        chain: The chain hash at ``seq``.
        replicas: Number of replicas that may be promoted, connected now or within a day; -1 if the server hides it.
    """

    incarnation: str
    seq: int
    at_ms: int
    lease_ms: int
    lag_ms: int
    chain: str
    replicas: int = 0

    @property
    def place(self) -> HistoryPlace:
        """The history's name, sequence and chain hash."""
        return HistoryPlace(self.incarnation, self.seq, self.chain)


class Replication(NamedTuple):
    """What a server shows of its replication.

    Attributes:
        role: ``master`` or ``slave``.
        replid: The replication id, which changes at each promotion and each restart.
        promoted_from: The replication id of the primary whose replica it was before it was promoted; empty without one,
            or after a restart.
        connected: Number of connected replicas; None if the server hides it.
    """

    role: str
    replid: str
    promoted_from: str
    connected: int | None

    def promotable(self, had_replica_ms: int, at_ms: int) -> int:
        """Return the number of replicas that may be promoted; -1 if the server hides it.

        Args:
            had_replica_ms: When a replica was recorded last, ms since the Unix epoch; 0 for never.
            at_ms: Now, by the same clock.
        """
        if self.connected is None:
            return -1
        return self.connected or int(had_replica_ms > 0 and at_ms < had_replica_ms + REPLICA_MS)


class Bump(NamedTuple):
    """An acknowledged kill, freeze or thaw.

    Attributes:
        op: ``kill``, ``freeze``, ``kill+freeze``, ``thaw``, ``each`` for several, or ``rotate``.
        targets: Its targets.
        header: The state of the history after it.
        at_risk: What could still undo it; empty if it is durable.
        sent: Monotonic clock at the call, s.
    """

    op: str
    targets: tuple[str, ...]
    header: Header
    at_risk: str
    sent: float

    @property
    def durable(self) -> bool:
        """Whether no crash and no failover of the store can undo it."""
        return not self.at_risk


class Registry(NamedTuple):
    """The store's registry of verifiers, for one sequence.

    Attributes:
        at_ms: The store's clock, ms since the Unix epoch.
        since_ms: When this registry began, ms since the Unix epoch.
        verifiers: Number of verifiers that probed since the given time, directly or through a relay.
        confirmed: Number of them that have applied the sequence.
        missing: The others: id, last probe (ms), applied sequence, and number of verifiers, for a relay all behind it.
        watching: Those that watch, which let calls go on and never confirm, with the end of the watch.
    """

    at_ms: int
    since_ms: int
    verifiers: int
    confirmed: int
    missing: tuple[tuple[str, int, int, int], ...]
    watching: tuple[str, ...] = ()

    @property
    def unreachable(self) -> tuple[str, ...]:
        """The names of those that are missing, each relay with the number of its verifiers."""
        return tuple(name if n == 1 else f"{name}, {n} verifiers" for name, _, _, n in self.missing)


class Ahead(NamedTuple):
    """A verifier that claims a place which is not in the store's history.

    Attributes:
        verifier: Its name.
        seq: The sequence that it claims.
    """

    verifier: str
    seq: int


class VerifierSeen(NamedTuple):
    """One verifier or relay in the registry.

    Attributes:
        id: Its name.
        age_ms: Time since its last probe, ms.
        applied: The sequence that it, or for a relay all behind it, had applied then; -1 before its first copy.
        behind: Number of verifiers behind a relay; None for a verifier.
        watches_until: Until when it lets calls go on that it would refuse, ms since the Unix epoch; None if it
            enforces.
        limits: The digests of the limits that it applies; None for none, and behind a relay.
    """

    id: str
    age_ms: int
    applied: int
    behind: int | None = None
    watches_until: int | None = None
    limits: str | None = None


def state_of(age_ms: int, lease_ms: int) -> VerifierState:
    """Return whether a verifier is live, late or gone; a late or gone one refuses every call.

    Args:
        age_ms: Time since its last probe, ms.
        lease_ms: The longest lease in force, ms.
    """
    if age_ms < lease_ms:
        return "live"
    return "late" if age_ms < _LATE_LEASES * lease_ms else "gone"


def count_states(seen: Iterable[tuple[VerifierState, int | None]]) -> dict[VerifierState, int]:
    """Return by state the number of verifiers; a relay counts as those behind it.

    Args:
        seen: State of each verifier or relay, and the number of verifiers behind a relay or None.
    """
    counts: dict[VerifierState, int] = {"live": 0, "late": 0, "gone": 0}
    for state, behind in seen:
        counts[state] += 1 if behind is None else behind
    return counts


class StoreEntry(NamedTuple):
    """One entry of the kill sequence: operation, target, time, actor, reason, and the kind of the mint's event."""

    seq: int
    op: str
    target: str
    at_ms: int
    by: str
    why: str
    event: str = ""


def text(value: Any) -> str:
    """Decode a string of the store.

    Raises:
        StoreError: The value is no string.
    """
    if not isinstance(value, bytes):
        raise StoreError("the store answered in an unknown form")
    return value.decode("utf-8", "replace")


def read_header(reply: Any, replicas: int = 0) -> Header:
    """Return the history's state in the first members of an answer.

    Args:
        reply: The answer.
        replicas: Number of replicas that may be promoted; -1 if the server hides it.

    Raises:
        StoreError: The answer has another form.
    """
    try:
        incarnation, seq, at_ms, lease_ms, lag_ms, chain = reply[:6]
        return Header(text(incarnation), int(seq), int(at_ms), int(lease_ms), int(lag_ms), text(chain), replicas)
    except (TypeError, ValueError) as error:
        raise StoreError("the store answered in an unknown form") from error


def read_replication(info: Any) -> Replication:
    """Parse the section ``replication`` of INFO; some services leave lines out.

    Raises:
        StoreError: It has no role or no replication id.
    """
    facts = dict(line.split(":", 1) for line in text(info).splitlines() if ":" in line)
    connected = facts.get("connected_slaves", "")
    try:
        role, replid = facts["role"], facts["master_replid"]
    except KeyError as error:
        raise StoreError(
            f"the server hides {error.args[0]} in INFO replication: ARx cannot notice a failover of it"
        ) from error
    return Replication(role, replid, facts.get("master_replid2", ""), int(connected) if connected.isdigit() else None)


def read_replicas(reply: Any) -> int:
    """Return the number of replicas in an answer to a bump or a rotation; -1 if the functions are older."""
    return int(reply[6]) if len(reply) > 6 else -1


def read_registry(reply: Any, seq: int, since_ms: int) -> Registry:
    """Parse the answer to a question for the verifiers that have not applied ``seq``.

    Args:
        reply: The answer.
        seq: The sequence.
        since_ms: The time in the question, ms since the Unix epoch.

    Raises:
        StoreError: The answer has another form.
    """
    try:
        at_ms, began_ms, heard = int(reply[0]), int(reply[1]), int(reply[2])
        # A relay counts as the verifiers behind it, or one relay that confirms would hide a hundred that did not.
        relays = {text(name): read_crowd(crowd) for name, _, crowd in reply[4]}
        missing = [
            (name, int(last), int(applied), relays[name].verifiers if name in relays else 1)
            for name, last, applied in ((text(name), last, applied) for name, last, applied in reply[3])
        ]
    except (TypeError, ValueError, IndexError) as error:
        raise StoreError("the store answered in an unknown form") from error
    late = [member for crowd in relays.values() for member in crowd.late if member.heard_ms >= since_ms]
    missing += [(member.name, member.heard_ms, member.applied, member.verifiers) for member in late]
    behind = sum(crowd.verifiers for crowd in relays.values()) + sum(member.verifiers for member in late)
    verifiers = heard - len(relays) + behind
    # A relay without verifiers is waited for as well: a verifier that connects to it would get a lease without the
    # kill.
    held, watching = list[tuple[str, int, int, int]](), list[str]()
    for row in missing:
        name = RegistryName.read(row[0])
        if name.until_ms is not None and name.until_ms > at_ms:
            watching.append(f"{name.id}, until {show_until(name.until_ms)}")
        elif row[2] < seq:
            held.append((name.id, *row[1:]))
    confirmed = verifiers - sum(row[3] for row in held) - len(watching)
    return Registry(at_ms, began_ms, verifiers, confirmed, tuple(held), tuple(sorted(watching)))


def read_verifiers(reply: Any) -> Iterator[VerifierSeen]:
    """Yield the verifiers and relays in an answer that names all of them, and those behind a relay that watch.

    Args:
        reply: The answer.
    """
    now, crowds = int(reply[0]), {text(name): read_crowd(crowd) for name, _, crowd in reply[4]}
    for raw, last, applied in reply[3]:
        name = RegistryName.read(text(raw))
        behind = crowds[text(raw)].verifiers if text(raw) in crowds else None
        watches = name.until_ms if (name.until_ms or 0) > now else None
        yield VerifierSeen(name.id, now - int(last), int(applied), behind, watches, name.limits)
    for member in (member for crowd in crowds.values() for member in crowd.late):
        name = RegistryName.read(member.name)
        if name.until_ms is not None and name.until_ms > now:
            yield VerifierSeen(name.id, max(0, now - member.heard_ms), member.applied, None, name.until_ms)


def read_ahead(reply: Any) -> Ahead | None:
    """Return the first verifier in an answer that names a place of another history, or None."""
    for member, score in reply:
        # Stored below -1, so that no query for applied sequences counts it as a confirmation.
        return Ahead(text(member).removeprefix(AHEAD), int(min(-2 - float(score), MOST)))
    return None


def read_crowd(value: Any) -> Crowd:
    """Parse what a relay reports of those behind it; if malformed, return one verifier that never confirms."""
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(value, type=Crowd)
    # Fail closed: a kill must not be reported as confirmed because a report could not be read.
    return Crowd(1, -1, ())


def read_entry(reply: Any) -> StoreEntry:
    """Parse one entry of the log.

    Raises:
        StoreError: It has another form.
    """
    try:
        key, fields = reply
        # RESP2 answers with a flat list, RESP3 with a map.
        members = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
        values = {text(name): text(value) for name, value in members.items()}
        seq = int(key.split(b"-")[0])
        return StoreEntry(
            seq, values["op"], values["s"], int(values["t"]), values["by"], values["why"], values.get("e", "")
        )
    except (TypeError, ValueError, KeyError) as error:
        raise StoreError("the store's log has an entry of an unknown form") from error


def is_elsewhere(error: Exception) -> bool:
    """Return whether a server refused because it is not the primary now; nothing was written then."""
    kinds = (redis.ReadOnlyError, redis.exceptions.ClusterError, redis.exceptions.AskError)
    more = (redis.exceptions.TryAgainError, redis.exceptions.BusyLoadingError)
    return isinstance(error, kinds + more) or str(error).startswith(("NOREPLICAS", "READONLY"))


def as_store_error(error: Exception) -> StoreError:
    """Return an error of the client library as an ARx error."""
    # The texts contain no address, which may hold a password.
    message = str(error)
    if message.startswith("REPLAYED"):
        return ProofUsedError("the proof of this call was used before")
    for kind in HISTORY_ERRORS:
        if message.startswith(kind):
            return StoreHistoryError(kind, message.removeprefix(kind).strip())
    if isinstance(error, FinderLoginError | CertificateError):
        return StoreError(message)
    if isinstance(error, PasswordFileError):
        return StoreError(f"the store was not asked, for want of a password: {message}")
    if isinstance(error, redis.AuthenticationError):
        return StoreError(
            "the store refused the user or password: set ARX_STORE_PASSWORD, ARX_STORE_PASSWORD_FILE or the login in "
            "the store's address"
        )
    if isinstance(error, redis.exceptions.NoPermissionError) or message.startswith("ACL failure in script"):
        return StoreError("the store does not permit this user to do that; `arx redis acl` prints what each role needs")
    if is_elsewhere(error):
        return StoreError(
            "the server that answers takes no writes: it is a replica, cut off, or not the owner any more"
        )
    if "unction not found" in message:
        return StoreError(
            "the ARx functions are not loaded in this store: load them as its administrator, `arx redis load`"
        )
    if isinstance(error, redis.ResponseError):
        return StoreError(f"the store refused: {message}")
    return StoreError("the store did not answer")
