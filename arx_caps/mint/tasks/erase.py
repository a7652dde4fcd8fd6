# SPDX-License-Identifier: Apache-2.0
"""Erase a person's data, or old records: in the mint's database, then in the log.  LOG 1.9.

The database comes first, and its events are appended to the log before that is erased, so that nothing of a person
comes into the log after the erasure.  A person's sessions end before: a running task needs its subject.
"""

from typing import NamedTuple

from arx_caps.audit.integrity import erase, index_at
from arx_caps.mint.audit.feeds import NAMED, EventFeed
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.events import Event, Recorded
from arx_caps.mint.db.repositories.erasures import ERASED
from arx_caps.mint.tasks.liveness import stands
from arx_verifier.errors import GrantError


class Gone(NamedTuple):
    """What was erased.

    Attributes:
        bodies: Of how many records of the log.
        sessions: In how many sessions of the mint's database.
        events: Of how many events that the database keeps.
    """

    bodies: int
    sessions: int
    events: int


def erase_person(mint: MintContext, target: str, *, by: str, reason: str) -> Gone:
    """Erase what is told of a person.

    Args:
        mint: The mint.
        target: The person's target, ``subject:…``.
        by: Who does it.
        reason: Why; both are recorded, the person is not.

    Raises:
        GrantError: ``conflict``: something still runs on their behalf.
        AuditError: The log is not as it was signed.
        StoreError: A database did not answer; repeat it.
    """
    mint.log.require_whole()
    rows = mint.db.erasures.sessions_for(target)
    open_ones = [row["id"] for row in rows if stands(mint, row)]
    if open_ones:
        raise GrantError(
            f"{len(open_ones)} sessions still run on behalf of this person, such as {open_ones[0]}: end them with "
            f"`arx kill {target}`, then erase",
            code="conflict",
        )
    sessions, events = _erase_work(mint, [row["id"] for row in rows], target, by, reason)
    return Gone(erase(mint.log.store, subject=target, by=by, reason=reason), sessions, events)


def erase_before(mint: MintContext, before: int, *, by: str, reason: str) -> Gone:
    """Erase all that is told of persons, whoever they are, before a time.

    Args:
        mint: The mint.
        before: ms since the Unix epoch: records that the log took before then, sessions that were over.
        by: Who does it.
        reason: Why; both are recorded.

    Raises:
        AuditError: The log is not as it was signed.
        StoreError: A database did not answer; repeat it.
    """
    mint.log.require_whole()
    sessions, events = _erase_work(mint, mint.db.erasures.sessions_over(before), None, by, reason, before)
    index = index_at(mint.log.store, before)
    return Gone(erase(mint.log.store, before=index, by=by, reason=reason), sessions, events)


def _erase_work(
    mint: MintContext, sessions: list[str], target: str | None, by: str, reason: str, before: int = 0
) -> tuple[int, int]:
    db, tasks = mint.db, mint.db.erasures.tasks_in(sessions)
    gone = {*sessions, *tasks}

    def is_theirs(event: Recorded) -> bool:
        facts = event.facts
        about = {str(facts.get("session")), str(facts.get("task"))}
        return event.at_ms < before or bool(gone & about) or (target is not None and target in facts.get("targets", ()))

    events = db.erasures.erase_events(is_theirs, NAMED)
    if sessions or events:
        what = Event.of(ERASED, by, sessions=len(sessions), events=events, reason=reason)
        db.erasures.erase_work(sessions, tasks, what)
    db.settle()
    mint.log.step()
    EventFeed(db)(mint.log.store)  # the step says nothing of an event that could not be put in
    return len(sessions), events
