# SPDX-License-Identifier: Apache-2.0
"""Erase a person's data, or old data, in the mint's database and the audit log. LOG 1.9."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from arx_caps.audit.integrity.retention import erase, index_at
from arx_caps.mint.audit.feeds import NAMED, EventFeed
from arx_caps.mint.context import LogParts
from arx_caps.mint.db.events import Event, Recorded
from arx_caps.mint.db.repositories.events.erasures import ERASED
from arx_caps.mint.tasks.liveness import is_usable
from arx_verifier.errors import GrantError, StoreError


class Gone(NamedTuple):
    """What was erased.

    Attributes:
        bodies: The number of records in the log.
        sessions: The number of sessions in the mint's database.
        events: The number of recorded events in the mint's database.
    """

    bodies: int
    sessions: int
    events: int


def erase_person(
    mint: LogParts, target: str, *, by: str, reason: str, end_accounts: Callable[[], object] = lambda: None
) -> Gone:
    """Erase the data of a person.

    Args:
        mint: The mint.
        target: The person's target, ``subject:…``.
        by: The actor.
        reason: The reason. Both are recorded, the person is not.
        end_accounts: Ends the person's accounts at upstreams, once nothing prevents the erasure.

    Raises:
        GrantError: ``conflict``: sessions still run on the person's behalf.
        AuditError: The log differs from what was signed.
        StoreError: A database did not answer: retry.
        UnavailableError: The kill epoch is unknown now: retry.
    """
    mint.log.require_whole()
    rows = mint.db.erasures.sessions_for(target)
    # A running task needs its subject for rules, renewals and kills. An erasure does not end it: a right to erase would
    # be a right to kill.
    open_ones = [row.id for row in rows if is_usable(mint.kills, row)]
    if open_ones:
        raise GrantError(
            f"{len(open_ones)} sessions still run on behalf of this person, such as {open_ones[0]}: end them with "
            f"`arx kill {target}`, then erase",
            code="conflict",
        )
    end_accounts()
    sessions, events = _erase_work(mint, [row.id for row in rows], target, by, reason)
    return Gone(erase(mint.log.store, subject=target, by=by, reason=reason), sessions, events)


def erase_before(mint: LogParts, before: int, *, by: str, reason: str) -> Gone:
    """Erase the data of all persons from before a time.

    Args:
        mint: The mint.
        before: The time, in ms since the Unix epoch: records that the log took before it, sessions that were over.
        by: The actor.
        reason: The reason. Both are recorded.

    Raises:
        AuditError: The log differs from what was signed.
        StoreError: A database did not answer: retry.
        UnavailableError: The kill epoch is unknown now: retry.
    """
    mint.log.require_whole()
    sessions, events = _erase_work(mint, mint.db.erasures.sessions_over(before), None, by, reason, before)
    index = index_at(mint.log.store, before)
    return Gone(erase(mint.log.store, before=index, by=by, reason=reason), sessions, events)


def _erase_work(
    mint: LogParts, sessions: list[str], target: str | None, by: str, reason: str, before: int = 0
) -> tuple[int, int]:
    db, tasks = mint.db, mint.db.erasures.tasks_in(sessions)
    gone = {*sessions, *tasks}

    def is_theirs(event: Recorded) -> bool:
        facts = event.facts
        about = {str(facts.get("session")), str(facts.get("task"))}
        # The target of a person is a hash: an event that has it is a kill of the person, or a taint of their memories.
        return event.at_ms < before or bool(gone & about) or (target is not None and target.encode() in event.body)

    # A kill that no mint has recorded yet would bring the person back: it is recorded now.
    mint.kills.born()  # from a store that answers
    with contextlib.suppress(StoreError):  # it has just failed, or another mint takes the entries
        mint.freezes.follow_store()
    events = db.erasures.erase_events(is_theirs, NAMED)
    if sessions or events:
        what = Event.of(ERASED, by, sessions=len(sessions), events=events, reason=reason)
        db.erasures.erase_work(sessions, tasks, what)
    db.kills.erase(target=target, before=before)  # their targets and reasons may name a person
    if target is not None:
        db.erasures.erase_mentions(target)
    # The write-ahead log of SQLite still has the erased rows.
    db.settle()
    # Recorded events go into the log before the log is erased: one that followed later would bring the person back.
    mint.log.step()
    EventFeed(db)(mint.log.store)  # again, because a step does not raise the errors of its feeds
    return len(sessions), events
