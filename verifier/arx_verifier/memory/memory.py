# SPDX-License-Identifier: Apache-2.0
"""Stamp what agents write into a memory, withhold what is tainted from who reads, and record that.  SPEC 18."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, Failure, MalformedTokenError, refusal
from arx_verifier.journal.decision import Decision, DecisionSink
from arx_verifier.memory.stamp import (
    ID_BYTES,
    MAX_STAMP_CHARS,
    STAMP_PREFIX,
    Kind,
    MemoryKeys,
    Stamp,
    Verdict,
    Writer,
    digest_content,
    groups_of,
    kind_of,
    read_stamp,
    writer_of,
)
from arx_verifier.memory.taints import TaintIndex, Taints
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.token.wire import text_of
from arx_verifier.verification.grant import Grant

MEMORY_AUDIENCE: Final = "memory"  # the mint gives the memory keys to this audience alone
TRUSTED: Final = "trusted"
WITHHELD: Final = "withheld"
MAX_SOURCES: Final = 256  # of one entry
_LOOKS: Final = 3  # at a view that changes while it is read
_SHOWN_IDS: Final = 8  # of a group of withheld entries, in a record
_SHOWN_GROUPS: Final = 8
_FORGED: Final = Verdict("forged", why="no memory service of this realm stamped this content")
_NO_STAMP: Final = Verdict("unknown", why="the entry has no stamp")
_NO_KEY: Final = Verdict("unknown", why="the memory key of the stamp is not known here")
_E = TypeVar("_E")


@dataclass(frozen=True, slots=True)
class Withheld:
    """Entries that were withheld from a reader for one reason.

    Attributes:
        status: ``tainted``, ``forged`` or ``unknown``.
        target: The target of the taint, or None.
        since: Since when its entries are tainted, ms since the Unix epoch, or None.
        why: A sentence for people.
        ids: Their ids; empty for entries without an authentic stamp.
        count: How many they are.
    """

    status: str
    target: str | None
    since: int | None
    why: str
    ids: tuple[str, ...]
    count: int


class Memory:
    """Makes and checks the stamps of a realm's memory.  Thread-safe.

    Args:
        keys: The realm's memory keys.
        epochs: The view of the realm's revocation epoch; a verifier has one.
        decisions: Records what was withheld; None to record nothing.
        marks: Warnings that a retrieval sets which returns what others may have written, of those that rows of the
            reader's token have.  SPEC 21.3.
    """

    def __init__(
        self, keys: MemoryKeys, epochs: Epochs, decisions: DecisionSink | None = None, marks: Sequence[str] = ()
    ) -> None:
        self.keys, self._epochs, self._decisions, self._marks = keys, epochs, decisions, tuple(marks)
        self._taints = Taints(epochs)
        self._complete: str | None = None  # the history whose view is known to have all taints

    def stamp(
        self,
        grant: Grant,
        content: str | bytes,
        *,
        sources: Sequence[str] = (),
        kind: Kind | None = None,
    ) -> str:
        """Return the stamp of an entry that the holder of a grant writes.

        Args:
            grant: The grant of the call that writes it.
            content: The entry's content, as it will be read.
            sources: Stamps of the entries that it was derived from, or that it replaces; check these entries before.
            kind: ``user``, ``tool``, ``agent`` or ``derived``; it is lowered to that of the weakest source.

        Returns:
            The stamp's text, to be stored with the entry; no secret.

        Raises:
            RevokedError: The grant was revoked or frozen meanwhile.
            UnavailableError: The view of the epoch is too old.
            AccessError: ``withheld``: a source is forged, or its key unknown.
            ValueError: There are too many sources for a stamp, or the kind is unknown.
        """
        ended = grant.look_again()
        if ended is not None:
            raise ended
        self.keys.look()
        incarnation, born = grant.born
        self._complete = incarnation
        known = self._authentic(sources) if sources else ()
        first, last = self._epochs.times_ms(now_ms())
        fields: tuple[Any, ...] = (
            digest_content(content),
            kind_of(kind, known),
            first,
            last - first,
            incarnation,
            born,
            grant.decision,
            writer_of(grant.facts),
        )
        if known:
            fields += (b"".join(source.mac[:ID_BYTES] for source in known), groups_of(known))
        stamp = STAMP_PREFIX + text_of(self.keys.seal(fields))
        if len(stamp) > MAX_STAMP_CHARS:  # the check would take it for forged
            raise ValueError(f"too many sources: expected a stamp of {MAX_STAMP_CHARS} characters, got {len(stamp)}")
        return stamp

    def check(self, stamp: str | None, content: str | bytes) -> Verdict:
        """Return whether an entry may be trusted to be what its stamp says, and its writer was not compromised.

        Args:
            stamp: The entry's stamp, or None if it has none.
            content: Its content.
        """
        return self.check_all(((stamp, content),))[0]

    def check_all(self, entries: Iterable[tuple[str | None, str | bytes]]) -> list[Verdict]:
        """Return the verdict of each entry, all by one view of the epoch.

        Args:
            entries: Stamp and content of each; the stamp is None for an entry without one.
        """
        entries = list(entries)
        for _ in range(_LOOKS):
            index = self._taints.current()
            incarnation, applied, _ = self._epochs.view()
            verdicts = [self._judge(stamp, content, index, incarnation, applied) for stamp, content in entries]
            # The lease after the entries were judged, and then the number of the taints: so the view had no other
            # taints at a moment at which it could be used.
            refused = self._epochs.check(None, 0, ())
            if refused is not None:
                return [_unknown(verdict, refused.detail) for verdict in verdicts]
            if self._epochs.freeze_changes == index.changes:
                return verdicts
        return [_unknown(verdict, "the view of the revocation epoch changes all the time") for verdict in verdicts]

    def trusted(self, entries: Iterable[tuple[_E, str | None, str | bytes]], reader: Grant) -> list[_E]:
        """Return the trusted entries of a retrieval, and record how many were withheld from the reader, and why.

        Args:
            entries: Each entry with its stamp and its content.
            reader: The grant of the call that reads them.

        Raises:
            RevokedError: The reader's grant was revoked or frozen meanwhile.
            UnavailableError: The view of the epoch is too old.
            StoreError: A warning may not be set.
        """
        ended = reader.look_again()
        if ended is not None:
            raise ended
        self._complete = reader.born[0]
        found = list(entries)
        verdicts = self.check_all([(stamp, content) for _, stamp, content in found])
        self.record(verdicts, reader)
        if self._marks:
            own = msgspec.msgpack.decode(writer_of(reader.facts), type=Writer)
            stamps = [each.stamp for each in verdicts if each.status == TRUSTED and each.stamp is not None]
            if any(_is_of_others(stamp, own) for stamp in stamps):
                reader.set_declared(self._marks)
        return [entry for (entry, _, _), verdict in zip(found, verdicts, strict=True) if verdict.status == TRUSTED]

    def record(self, verdicts: Iterable[Verdict], reader: Grant) -> list[Withheld]:
        """Record which entries were withheld from a reader, in one record; do nothing if none was.

        Args:
            verdicts: The verdicts of a retrieval.
            reader: The grant of the call that reads the entries.

        Returns:
            The withheld entries, by reason.
        """
        withheld = _withheld(verdicts)
        if withheld and self._decisions is not None:
            incarnation, applied, age_ms = self._epochs.view()
            at = now_ms()
            decision = Decision(WITHHELD, at, reader.facts, reader.tool)
            decision.incarnation, decision.applied, decision.age_ms = incarnation, applied, age_ms
            decision.failures = tuple(map(_failure, withheld[:_SHOWN_GROUPS]))
            self._decisions.append(decision)
        return withheld

    def _judge(
        self, text: str | None, content: str | bytes, index: TaintIndex, incarnation: str, applied: int
    ) -> Verdict:
        if text is None:
            return _NO_STAMP
        try:
            stamp, payload = read_stamp(text)
        except MalformedTokenError:
            return _FORGED
        authentic = self.keys.is_authentic(stamp.kid, payload, stamp.mac)
        if authentic is None:
            self.keys.look()  # another service may have stamped with a newer key
            authentic = self.keys.is_authentic(stamp.kid, payload, stamp.mac)
            if authentic is None:
                return _NO_KEY
        if not authentic or stamp.digest != digest_content(content):
            return _FORGED
        taint = stamp.taint(index)
        if taint is not None:
            return Verdict("tainted", taint.target, taint.since, stamp, f"{taint.target} is tainted")
        # A mint grants nothing in a history before the store has all freezes, and so all taints (SPEC 10.12).  A view
        # that has the birth of any token of its history has them.
        if stamp.incarnation == incarnation:
            if stamp.born > applied:
                return Verdict("unknown", None, None, stamp, "the view of the revocation epoch is behind the entry")
        elif self._complete != incarnation:
            return Verdict("unknown", None, None, stamp, "the view may lack the taints of an earlier history")
        return Verdict(TRUSTED, None, None, stamp)

    def _authentic(self, sources: Sequence[str]) -> tuple[Stamp, ...]:
        if len(sources) > MAX_SOURCES:
            raise ValueError(f"too many sources: expected at most {MAX_SOURCES}, got {len(sources)}")
        return tuple(self._source(place, source) for place, source in enumerate(sources, 1))

    def _source(self, place: int, source: str) -> Stamp:
        try:
            stamp, payload = read_stamp(source)
            if self.keys.is_authentic(stamp.kid, payload, stamp.mac):
                return stamp
        except MalformedTokenError:
            pass
        raise _refuse_source(place)


def _is_of_others(stamp: Stamp, own: Writer) -> bool:
    """Return whether others than its reader may have written an entry: a kind does not show that of its sources."""
    by = stamp.by
    return (
        stamp.kind in ("tool", "derived")
        or bool(stamp.sources)
        or (by.agent, by.named, by.subject) != (own.agent, own.named, own.subject)
    )


def _refuse_source(place: int) -> ArxError:
    return refusal(WITHHELD, [Failure(f"source {place}", "entry", "stamped by this realm", "another stamp")])


def _unknown(verdict: Verdict, why: str) -> Verdict:
    return verdict._replace(status="unknown", why=why) if verdict.status == TRUSTED else verdict


def _withheld(verdicts: Iterable[Verdict]) -> list[Withheld]:
    groups: dict[tuple[str, str | None, int | None, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.status != TRUSTED:
            groups[verdict.status, verdict.target, verdict.since, verdict.why].append(verdict)
    return [
        Withheld(*reason, tuple(each.stamp.id for each in group if each.stamp is not None), len(group))
        for reason, group in groups.items()
    ]


def _failure(withheld: Withheld) -> Failure:
    """Return the failure by which a record names withheld entries."""
    by = f" ({withheld.why})" if withheld.target is None else f" by {withheld.target}"
    ids = ", ".join(withheld.ids[:_SHOWN_IDS]) + (", …" if len(withheld.ids) > _SHOWN_IDS else "")
    return Failure("memory", "entry", TRUSTED, f"{withheld.count} {withheld.status}{by}" + (f": {ids}" if ids else ""))
