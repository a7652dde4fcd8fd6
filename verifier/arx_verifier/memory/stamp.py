# SPDX-License-Identifier: Apache-2.0
"""The stamp of a memory entry: who wrote it, derived from what; its bytes, its text, its keys.  SPEC 18.2, 18.3.

``taints`` says what is tainted, ``memory`` makes and checks stamps.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from itertools import chain as chain_of
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

import arx_verifier.names as names
from arx_verifier.errors import MalformedTokenError, SettingsError
from arx_verifier.journal.record import ChainFacts
from arx_verifier.memory.taints import COARSE, DIGEST_BYTES, FINE, KEY, TaintIndex, TaintWindow, digest_of
from arx_verifier.token import chain
from arx_verifier.token.keyring import KEY_BYTES
from arx_verifier.token.targets import agent_targets, subject_target
from arx_verifier.token.wire import bytes_of, text_of

STAMP_PREFIX: Final = "arxm1_"  # as the prefixes of tokens have it; a stamp is no secret
MAX_STAMP_CHARS: Final = 8192
MAC_BYTES: Final = 32
ID_BYTES: Final = 8  # of the MAC: enough to find an entry in a record
MAX_GROUPS: Final = 32  # sources whose targets a derived stamp has one by one
MAX_DIGESTS: Final = 256  # of all its sources together: 2 KiB
KINDS: Final = ("user", "tool", "agent", "derived")  # the authority of an entry, the highest first
Kind = Literal["user", "tool", "agent", "derived"]
_RANK: Final = {kind: rank for rank, kind in enumerate(KINDS)}
# What a folded source is tainted by, beyond its digests.
EXACT: Final = 0  # nothing
ANY_FINE: Final = 1  # every taint of a session, a task or a link in its time
ANY: Final = 2  # every taint in its time

Natural = Annotated[int, Meta(ge=0, lt=2**53)]
Id = Annotated[bytes, Meta(min_length=16, max_length=16)]


class Writer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who wrote an entry.  Positions are fixed.

    Attributes:
        agent: The agent that the mint proved.
        named: The agents delegated to, outermost first: the last one wrote it, by what the holder before it says.
        session: The session.
        task: The task, or None.
        tasks: Its sub-tasks.
        links: The token's own link, and that of each of ``named``.
        subject: The first 16 bytes of the subject's digest (SPEC 10.1), or None.
    """

    agent: str
    named: tuple[str, ...]
    session: str
    task: str | None
    tasks: tuple[str, ...]
    links: tuple[Id, ...]
    subject: Id | None


class SourceGroup(NamedTuple):
    """The targets of a source, or of several that were folded.  Positions are fixed.

    Attributes:
        first: Its earliest possible time, ms since the Unix epoch.
        last: Its latest possible time.
        coarse: The digests of its agents, its subject and its memory key, joined.
        fine: The digests of its sessions, tasks and links, joined.
        folded: ``EXACT``, ``ANY_FINE`` or ``ANY``.
    """

    first: Natural
    last: Natural
    coarse: bytes
    fine: bytes
    folded: int


class Stamp(msgspec.Struct, eq=False, array_like=True, forbid_unknown_fields=True):
    """The authenticated facts of an entry.  Positions are fixed.

    Attributes:
        v: 1.
        kid: The memory key's id.
        digest: SHA-256 of the content.
        kind: ``user``, ``tool``, ``agent`` or ``derived``; never above its weakest source.
        first: The earliest possible time of the stamp, ms since the Unix epoch.
        spread: How much later it may have been, ms: the clocks of the service and of the store may differ.
        incarnation: The incarnation of the kill epoch that the writer's token was born in.
        born: The sequence that it was born at.
        decision: The decision that allowed the write; empty without a record.
        writer: Who wrote it, MessagePack of a ``Writer``.
        sources: The ids of the entries that it was derived from, joined.
        groups: The targets of those and of their sources.
        mac: The 32 bytes that authenticate it.
    """

    v: Literal[1]
    kid: str
    digest: bytes
    kind: Kind
    first: Natural
    spread: Natural
    incarnation: str
    born: Natural
    decision: str
    writer: bytes
    sources: bytes = b""
    groups: tuple[SourceGroup, ...] = ()
    mac: bytes = b""

    @property
    def id(self) -> str:
        """The entry's id in records: 16 hex digits."""
        return self.mac[:ID_BYTES].hex()

    @property
    def last(self) -> int:
        """The latest possible time of the stamp, ms since the Unix epoch."""
        return self.first + self.spread

    @property
    def by(self) -> Writer:
        """Who wrote the entry."""
        return _parsed(self.writer)[0]

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets whose taint taints this entry itself."""
        return (*_parsed(self.writer)[1], f"{KEY}:{self.kid}")

    @property
    def source_ids(self) -> list[str]:
        """The ids of the entries that it was derived from, in hex."""
        return [self.sources[at : at + ID_BYTES].hex() for at in range(0, len(self.sources), ID_BYTES)]

    def taint(self, index: TaintIndex) -> TaintWindow | None:
        """Return the first taint of this entry or of one of its sources, or None.

        Args:
            index: The taints.
        """
        found = index.targets
        if not found:
            return None
        first, last = self.first, self.last
        # Most entries have no such target, which one set operation shows.
        if not found.keys().isdisjoint(_parsed(self.writer)[1]) or self.kid in index.kids:
            windows = (window for target in self.targets for window in found.get(target, ()))
            if (taint := _first_of(windows, first, last)) is not None:
                return taint
        return next((taint for group in self.groups if (taint := _taint_of(group, index)) is not None), None)

    def __repr__(self) -> str:
        return f"<Stamp {self.id} of {self.by.agent}>"


class Verdict(NamedTuple):
    """The result of a check.

    Attributes:
        status: ``trusted``, ``tainted``, ``forged`` or ``unknown``.
        target: The target of the taint; None otherwise.
        since: Since when its entries are tainted, ms since the Unix epoch; None otherwise.
        stamp: The authentic stamp; None if it is forged, or its key unknown.
        why: A sentence for people; empty for a trusted entry.
    """

    status: Literal["trusted", "tainted", "forged", "unknown"]
    target: str | None = None
    since: int | None = None
    stamp: Stamp | None = None
    why: str = ""


class MemoryKeys:
    """The keys of stamps: the newest one stamps, all of them check.

    Args:
        keys: Key id to 32 secret bytes, such as ``memory.1``.

    Raises:
        SettingsError: There is no key, one of another length, or an invalid id.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self.replace(keys)

    def replace(self, keys: Mapping[str, bytes]) -> None:
        """Replace all keys.

        Args:
            keys: Key id to 32 secret bytes.

        Raises:
            SettingsError: As for the constructor; the old keys stay in force.
        """
        if not keys:
            raise SettingsError("no memory key: only the audience `memory` gets them from the mint")
        for kid, key in keys.items():
            if not names.is_kid(kid) or len(key) != KEY_BYTES:
                raise SettingsError(f"memory key {kid!r:.40}: expected {KEY_BYTES} bytes and an id such as memory.1")
        newest = max(keys, key=lambda kid: int(kid.partition(".")[2]))
        # One assignment each: a stamp is made with an id and its own key.
        self._newest = newest, keys[newest]
        self._states = {kid: chain.states_of(key) for kid, key in keys.items()}

    def look(self) -> None:
        """Look for newer keys; these here never change by themselves."""

    def seal(self, fields: tuple[Any, ...]) -> bytes:
        """Return the bytes of a stamp: its MAC by the newest key, and what that is over.  SPEC 18.2.

        Args:
            fields: The values of ``Stamp`` after ``kid``, without ``mac``.
        """
        kid, key = self._newest
        payload = _WRITE.encode((1, kid, *fields))
        return chain.extend(key, payload) + payload

    def is_authentic(self, kid: str, payload: bytes, mac: bytes) -> bool | None:
        """Return whether a MAC is that of a stamp's bytes; None if the key is unknown."""
        states = self._states.get(kid)
        return None if states is None else chain.ends_in(states, payload, mac)

    def __repr__(self) -> str:
        return f"<MemoryKeys {', '.join(sorted(self._states))}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("MemoryKeys are secrets and are not pickled")


_WRITE: Final = msgspec.msgpack.Encoder()
_READ: Final = msgspec.msgpack.Decoder(Stamp)
_READ_WRITER: Final = msgspec.msgpack.Decoder(Writer)


def read_stamp(text: str) -> tuple[Stamp, bytes]:
    """Parse a stamp, which is not authenticated yet.

    Args:
        text: ``arxm1_`` and base64url.

    Returns:
        The stamp, and the bytes that its MAC is over.

    Raises:
        MalformedTokenError: It is no stamp of this version.
    """
    if not isinstance(text, str) or len(text) > MAX_STAMP_CHARS or not text.startswith(STAMP_PREFIX):
        raise MalformedTokenError("this is not the stamp of a memory entry")
    raw = bytes_of(text[len(STAMP_PREFIX) :])
    mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
    try:
        stamp = _READ.decode(payload)
        _parsed(stamp.writer)  # here, as its form is a part of the stamp's: a check of the MAC proves no form
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedTokenError("this is not the stamp of a memory entry") from error
    if stamp.mac:  # the array has no such member: the MAC comes before it
        raise MalformedTokenError("this is not the stamp of a memory entry")
    stamp.mac = mac
    return stamp, payload


def parse_stamp(text: str) -> Stamp:
    """Return what a stamp says, for people; it may be forged.

    Args:
        text: ``arxm1_`` and base64url.

    Raises:
        MalformedTokenError: It is no stamp of this version.
    """
    return read_stamp(text)[0]


def writer_of(facts: ChainFacts) -> bytes:
    """Return the MessagePack of who a chain's entries are written by."""
    kept: bytes | None = facts.__dict__.get("memory_writer")
    if kept is None:
        subject = None if facts.subject is None else bytes.fromhex(subject_target(*facts.subject).partition(":")[2])
        links = tuple(map(bytes_of, (facts.token, *facts.links)))
        writer = Writer(facts.agent, facts.named, facts.session, facts.task, facts.tasks, links, subject)
        kept = facts.__dict__["memory_writer"] = _WRITE.encode(writer)
    return kept


def kind_of(kind: Kind | None, sources: Iterable[Stamp]) -> Kind:
    """Return the kind of an entry: the given one, or that of its weakest source if this is weaker.

    Args:
        kind: The given one; None for ``derived``, or ``agent`` without sources.
        sources: What it was derived from.

    Raises:
        ValueError: The kind is unknown.
    """
    kinds = [source.kind for source in sources]
    own: Kind = kind or ("derived" if kinds else "agent")
    if own not in _RANK:
        raise ValueError(f"unknown kind: expected one of {', '.join(KINDS)}, got {own!r:.40}")
    return max([own, *kinds], key=_RANK.__getitem__)


def groups_of(sources: Iterable[Stamp]) -> tuple[SourceGroup, ...]:
    """Return the targets of sources, and of theirs, for a derived stamp; the oldest are folded if they are many."""
    groups: dict[tuple[bytes, bytes, int], SourceGroup] = {}
    for source in sources:
        _, targets = _parsed(source.writer)
        fine = b"".join(digest_of(target) for target in targets if target.partition(":")[0] in FINE)
        lasting = [target for target in targets if target.partition(":")[0] in COARSE]
        coarse = b"".join(map(digest_of, (*lasting, f"{KEY}:{source.kid}")))
        for group in (SourceGroup(source.first, source.last, coarse, fine, EXACT), *source.groups):
            same = groups.get(group[2:], group)  # a task that wrote many sources is one group
            groups[group[2:]] = group._replace(first=min(same.first, group.first), last=max(same.last, group.last))
    return _fold(sorted(groups.values(), key=lambda group: (group.folded, group.last), reverse=True))


# A fold forgets which sessions, tasks and links a source had, and so takes every one of them as its own: an entry may
# be tainted too much, and is never tainted too little.
def _fold(groups: list[SourceGroup]) -> tuple[SourceGroup, ...]:
    """Return groups within the bounds; folded ones come first, then the youngest."""
    folded = [group for group in groups if group.folded]
    exact = [group for group in groups if not group.folded]
    size = sum(len(group.coarse) + len(group.fine) for group in exact)
    while len(exact) >= MAX_GROUPS or size > MAX_DIGESTS * DIGEST_BYTES:
        oldest = exact.pop()
        size -= len(oldest.coarse) + len(oldest.fine)
        folded.append(oldest)
    if len(folded) > 1 or (folded and not folded[0].folded):
        coarse = dict.fromkeys(digest for group in folded for digest in _split(group.coarse))
        whole = len(coarse) > MAX_DIGESTS or any(group.folded == ANY for group in folded)
        first, last = min(group.first for group in folded), max(group.last for group in folded)
        folded = [SourceGroup(first, last, b"" if whole else b"".join(coarse), b"", ANY if whole else ANY_FINE)]
    return (*folded, *exact)


def _taint_of(group: SourceGroup, index: TaintIndex) -> TaintWindow | None:
    first, last, coarse, fine, folded = group
    candidates = index.targets.get("realm", [])
    if folded != EXACT:
        candidates = candidates + (index.fine if folded == ANY_FINE else index.all)
    exact = (window for digest in _split(coarse + fine) for window in index.digests.get(digest, ()))
    return _first_of(chain_of(candidates, exact), first, last)


def _first_of(windows: Iterable[TaintWindow], first: int, last: int) -> TaintWindow | None:
    return next((window for window in windows if window.meets(first, last)), None)


def _split(digests: bytes) -> list[bytes]:
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


@lru_cache(maxsize=4096)
def _parsed(raw: bytes) -> tuple[Writer, tuple[str, ...]]:
    """Return a writer and its targets; entries of one writer share them."""
    writer = _READ_WRITER.decode(raw)
    paths = (writer.agent, *writer.named)
    if not all(map(names.is_agent_path, paths)):
        raise msgspec.ValidationError("invalid writer: expected agent paths")
    agents = [target for path in paths for target in agent_targets(path)]
    tasks = [f"task:{task}" for task in (writer.task, *writer.tasks) if task is not None]
    found = ["realm", f"session:{writer.session}", *tasks, *agents, *(f"link:{text_of(link)}" for link in writer.links)]
    if writer.subject is not None:
        found.append(f"subject:{writer.subject.hex()}")
    return writer, tuple(found)


def digest_content(content: str | bytes) -> bytes:
    """Return the digest of an entry's content: SHA-256 of the bytes, of a text those in UTF-8."""
    return sha256(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")).digest()
