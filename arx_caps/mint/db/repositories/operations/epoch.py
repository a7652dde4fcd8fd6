# SPDX-License-Identifier: Apache-2.0
"""The high-water mark of each realm's kill epoch, and the freezes in force. SPEC 10.

What a store that lost either of them must be given is decided in ``arx_caps.mint.revocation``.
"""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, delete, insert, or_, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import NoResultFound

from arx_caps.mint.db.cursor import Order, Text, Time
from arx_caps.mint.db.database import PAGE, Repository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.notices import FROZEN, KILLED, THAWED, queue_notices
from arx_caps.mint.db.repositories.identity.console_sessions import end_sign_ins
from arx_caps.mint.db.repositories.operations.kills import KillStep, add_kills
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.statement import CompiledStatement, insert_new
from arx_caps.mint.db.tables import FOLLOWED, FREEZES, HIGH_WATER, META, Freeze
from arx_caps.revocation.wire import DIRECT
from arx_verifier.revocation.history import HistoryPlace


class HighWater(NamedTuple):
    """The highest position in the kill sequence that a mint has acted on.

    Attributes:
        incarnation: The incarnation of the store's history.
        seq: The position in it.
        chain: Hash of the sequence up to it, which detects another past of the same length; empty if unknown.
        max_ttl_ms: The longest life of a token, and so how long the store keeps kills, in ms; 0 leaves it unchanged.
    """

    incarnation: str
    seq: int
    chain: str = ""
    max_ttl_ms: int = 0


FREEZE_ROWS: Final = RowReader(Freeze, FREEZES)
_ITS_MARK: Final = HIGH_WATER.c.realm == bindparam("which")
_SELECT_MARK: Final = select(*(HIGH_WATER.c[name] for name in HighWater._fields)).where(_ITS_MARK)
_MARK, _LOCK_MARK = CompiledStatement(_SELECT_MARK), CompiledStatement(_SELECT_MARK.with_for_update())
_ADD_MARK, _CHANGE_MARK = CompiledStatement(insert(HIGH_WATER)), CompiledStatement(update(HIGH_WATER).where(_ITS_MARK))
_SELECT_FOLLOWED: Final = select(*(FOLLOWED.c[name] for name in HistoryPlace._fields)).where(
    FOLLOWED.c.realm == bindparam("which")
)
_FOLLOWED, _LOCK_FOLLOWED = CompiledStatement(_SELECT_FOLLOWED), CompiledStatement(_SELECT_FOLLOWED.with_for_update())
_ADD_FOLLOWED: Final = CompiledStatement(insert(FOLLOWED))
_CHANGE_FOLLOWED: Final = update(FOLLOWED).where(FOLLOWED.c.realm == bindparam("which"))
FREEZES_ORDER: Final = Order((FREEZES.c.at_ms, FREEZES.c.target), tuple[Time, Text], newest_first=True)
_FREEZES: Final = select(FREEZES.c.target)
_FREEZE_OP: Final = CompiledStatement(
    select(FREEZES.c.op).where(FREEZES.c.target == bindparam("which"), FREEZES.c.seq > 0)
)
RECALLED: Final = "freezes_recalled"  # a name in META
_ITS_RECALL: Final = META.c.name == RECALLED
_RECALLED: Final = select(META.c.value).where(_ITS_RECALL)
_ADD_FREEZE: Final = CompiledStatement(insert(FREEZES))
_THAW: Final = delete(FREEZES).where(FREEZES.c.target == bindparam("which"))
_ADD_RECALLED: Final = CompiledStatement(insert(META))
_KILLED_TOO: Final = update(FREEZES).where(FREEZES.c.target == bindparam("which")).values(op="kill+freeze")


class EpochRepository(Repository):
    """The high-water mark of each realm, and its freezes."""

    def high_water(self, realm: str) -> HighWater | None:
        """Return a realm's high-water mark, or None."""
        with self._database.look() as c:
            return _high_water(c, realm)

    def raise_high_water(self, realm: str, mark: HighWater, what: Event | None = None, *, begins: bool = False) -> None:
        """Raise a realm's high-water mark in a transaction of its own.

        Args:
            realm: The realm.
            mark: The position that was acted on.
            what: The event, or None.
            begins: Whether the position begins a new incarnation, whose sequence may be lower.
        """
        with self._database.write(what) as c:
            raise_high_water(c, realm, mark, begins=begins)

    def followed(self, realm: str) -> HistoryPlace | None:
        """Return the entry of the store's log up to which the freezes are known, or None."""
        with self._database.look() as c:
            row = _FOLLOWED.first(c, {"which": realm})
        return None if row is None else HistoryPlace(*row)

    def freezes(self) -> set[str]:
        """Return the target of every freeze in force."""
        return set(self._database.column(_FREEZES))

    def freeze_op(self, target: str) -> str | None:
        """Return the operation that froze a target, ``freeze`` or ``kill+freeze``.

        None if it is not frozen, or if the store's log did not have the entry any more.
        """
        with self._database.look() as c:
            op: str | None = _FREEZE_OP.scalar(c, {"which": target})
        return op

    def recalled(self) -> str | None:
        """Return the incarnation for which the freezes of the signed log were put back last, or None."""
        incarnation: str | None = self._database.scalar(_RECALLED)
        return incarnation

    def recall(self, incarnation: str, freezes: Collection[Freeze]) -> None:
        """Put freezes back that the signed log has, and note the incarnation.

        Args:
            incarnation: The store's incarnation.
            freezes: Freezes that the database lacks.
        """
        with self._database.write() as c:
            for freeze in freezes:
                insert_new(c, _ADD_FREEZE, FREEZE_ROWS.values(freeze))
            end_sign_ins(c, [freeze.target for freeze in freezes])
            c.execute(delete(META).where(_ITS_RECALL))
            insert_new(c, _ADD_RECALLED, {"name": RECALLED, "value": incarnation})  # another mint has started as well

    def frozen(self, *, kind: str | None = None, after: str | None = None, limit: int = PAGE) -> list[Freeze]:
        """Return the freezes in force, the newest first.

        Args:
            kind: Only those of targets of this kind; None for all but taints, of which a kill leaves many.
            after: A page's ``next``: only freezes after it.
            limit: At most this number.
        """
        return self._database.listed(
            FREEZE_ROWS, FREEZE_ROWS.select().where(_of_kind(kind)), FREEZES_ORDER, after, limit
        )

    def count_frozen(self, kind: str | None) -> int:
        """Return how many freezes ``frozen`` lists in all.

        Args:
            kind: As for ``frozen``.
        """
        return self._database.count(FREEZES, _of_kind(kind))

    def follow(
        self,
        realm: str,
        since: HistoryPlace | None,
        to: HistoryPlace,
        frozen: Collection[Freeze],
        thawed: Collection[str],
        steps: Collection[KillStep] = (),
    ) -> bool:
        """Apply entries of the store's log to freezes and kills, record their events, and raise the high-water mark.

        Args:
            realm: The realm.
            since: The entry up to which the freezes were known.
            to: The last entry that is applied.
            frozen: Freezes that were made.
            thawed: Targets that were thawed.
            steps: Kills, freezes and thaws to remember.

        Returns:
            Whether the entries were applied; False if another mint has applied entries since ``since``.
        """
        with self._database.write() as c:
            row = _LOCK_FOLLOWED.first(c, {"which": realm})
            if (None if row is None else HistoryPlace(*row)) != since:
                return False
            if row is not None:
                c.execute(_CHANGE_FOLLOWED, {"which": realm, **to._asdict()})
            elif not insert_new(c, _ADD_FOLLOWED, {"realm": realm, **to._asdict()}):  # another mint was first
                return False
            # Thaws first: a target that was thawed and frozen again is frozen.
            for target in thawed:
                c.execute(_THAW, {"which": target})
            for freeze in frozen:
                # A second freeze of a target keeps the time and reason of the first.
                if not insert_new(c, _ADD_FREEZE, FREEZE_ROWS.values(freeze)) and freeze.op == "kill+freeze":
                    c.execute(_KILLED_TOO, {"which": freeze.target})
            # At the thaw as well: a sign-in can have begun while the freeze was made, and must not outlive it.
            end_sign_ins(c, [*thawed, *(freeze.target for freeze in frozen)])
            add_kills(c, steps)
            # Here and not by the mint that made the change: it may have ended, or had a database that took nothing.
            for step in steps:
                if step.event:
                    targets = [target for _, target in step.targets]
                    facts = {"targets": targets, "seq": step.seq, "reason": step.why}
                    self._database.record_in(c, Event.of(step.event, step.by, **facts))
            # Of another history, the entries are no news.
            if since is not None and since.incarnation == to.incarnation:
                _notify_of_direct(c, steps)
            raise_high_water(c, realm, HighWater(*to))
        return True


def _of_kind(kind: str | None) -> Any:
    if kind is None:
        return FREEZES.c.target.not_like("memory:%")
    return or_(FREEZES.c.target == kind, FREEZES.c.target.startswith(f"{kind}:"))


def _notify_of_direct(c: Connection, steps: Collection[KillStep]) -> None:
    """Queue notifications of the changes that the command line made at the store: no mint has recorded an event."""
    for step in steps:
        if DIRECT in step.by:
            kind = {"freeze": FROZEN, "thaw": THAWED}.get(step.op, KILLED)
            targets = [target for _, target in step.targets]
            facts = {"seq": step.seq, "targets": targets, "reason": step.why}
            queue_notices(c, kind, step.by, step.at_ms, facts)


def raise_high_water(c: Connection, realm: str, mark: HighWater, *, begins: bool = False) -> None:
    """Raise a realm's high-water mark in an open transaction. A mark is never lowered.

    Args:
        c: The transaction.
        realm: The realm.
        mark: The position that was acted on.
        begins: Whether the position begins a new incarnation, whose sequence may be lower.
    """
    raise_from(c, realm, _high_water(c, realm), mark, begins=begins)


def raise_from(c: Connection, realm: str, before: HighWater | None, mark: HighWater, *, begins: bool = False) -> None:
    """Raise a high-water mark that was read in this transaction, without a lock.

    Args:
        c: The transaction.
        realm: The realm.
        before: The mark; None if the realm has none.
        mark: The position that was acted on.
        begins: Whether the position begins a new incarnation, whose sequence may be lower.

    Raises:
        NoResultFound: The mark is gone since it was read.
    """
    if before is None:
        if not insert_new(c, _ADD_MARK, {"realm": realm, **mark._asdict()}):  # another mint was first
            raise_high_water(c, realm, mark, begins=begins)
        return
    # Read without a lock at first: nearly every call changes nothing, and would otherwise wait for all the others.
    if not _raised(before, mark, begins):
        return
    # Computed again under the lock: of two writers, the one with the lower mark must not win by being last.
    locked = _LOCK_MARK.first(c, {"which": realm})
    if locked is None:
        raise NoResultFound("the high-water mark is gone since it was read")
    values = _raised(HighWater(*locked), mark, begins)
    if values:
        _CHANGE_MARK.run(c, {"which": realm, **values})


def _raised(before: HighWater, mark: HighWater, begins: bool) -> dict[str, Any]:
    """Return the columns that a mark changes, or an empty dict."""
    if not begins and mark.incarnation != before.incarnation and mark.seq <= before.seq:
        # A new incarnation continues the numbers of the one before it. A lower number is from a request that read
        # the epoch before that, and would set the mark back to a history that is over.
        return {}
    seq = max(before.seq, mark.seq)
    chains = [
        place.chain
        for place in (mark, before)
        if (place.incarnation, place.seq) == (mark.incarnation, seq) and place.chain
    ]
    after = HighWater(mark.incarnation, seq, chains[0] if chains else "", mark.max_ttl_ms or before.max_ttl_ms)
    return after._asdict() if after != before else {}


def _high_water(c: Connection, realm: str) -> HighWater | None:
    row = _MARK.first(c, {"which": realm})
    return None if row is None else HighWater(*row)
