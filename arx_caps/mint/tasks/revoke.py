# SPDX-License-Identifier: Apache-2.0
"""End tasks, sessions, links, approvals, agents and operators: rows and kills. SPEC 10.

The kill itself is in ``arx_caps.mint.revocation.revoker``.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.tables import SessionRow, TaskRow
from arx_caps.mint.revocation.revoker import NO_WAIT_MS, Revoker
from arx_caps.revocation.report import KillReport
from arx_caps.revocation.wire import Bump
from arx_verifier.clock import now_ms

BRIEFLY_MS: Final = 50  # live verifiers confirm in a few ms; a caller must not wait for the lease of a dead one


def finish_task(db: MintDatabase, revoker: Revoker, task: TaskRow, by: str) -> KillReport | None:
    """End a task: all its tokens and those of its subtasks are revoked.

    Returns:
        The kill report; None if the task had ended before.

    Raises:
        StoreError: The outcome is not known: retry.
    """
    until = db.tasks.over_at(task.id)
    return _end_row(revoker, "task", msgspec.structs.replace(task, expires_at=until), by, db.tasks.end)


def end_session(db: MintDatabase, revoker: Revoker, session: SessionRow, by: str) -> KillReport | None:
    """End a session: its tokens and those of all its tasks are revoked.

    Returns:
        The kill report; None if the session had ended before.

    Raises:
        StoreError: The outcome is not known: retry.
    """
    return _end_row(revoker, "session", session, by, db.sessions.end)


def kill_links(revoker: Revoker, links: Collection[str], by: str) -> KillReport:
    """Revoke the tokens of links, and all that were delegated from them.

    Args:
        revoker: Kills, freezes and thaws.
        links: First links of grants.
        by: The actor.

    Raises:
        StoreError: The outcome is not known: retry.
    """
    targets = [f"link:{link}" for link in sorted(links)]
    bump = revoker.change(lambda: revoker.store.kill(targets, "task attenuated", by))
    return revoker.settle(bump, BRIEFLY_MS)


def withdraw_target(revoker: Revoker, target: str, by: str) -> KillReport:
    """Revoke the discharge of an approval; the caller records the event.

    Args:
        revoker: Kills, freezes and thaws.
        target: The approval's target.
        by: The actor.

    Raises:
        StoreError: The outcome is not known: retry.
    """
    # A kill and a freeze: a discharge has no birth of its own, so after a kill alone an agent could extend its task and
    # bind the same discharge to the younger token.
    bump = revoker.change(lambda: revoker.store.kill_by_kind([target], "approval withdrawn", by))
    return revoker.settle(bump, None)


def deactivate(db: MintDatabase, revoker: Revoker, path: str, by: str) -> KillReport:
    """Deactivate an agent: revoke its tokens and those of agents below, until a thaw.

    Returns:
        The kill report.

    Raises:
        StoreError: The outcome is not known: retry.
    """
    # The database first: a crash in between leaves an agent that gets no token, never one that continues.
    db.agents.set_status(path, "deactivated", Event.of("agent.deactivated", by, agent=path, reason="deactivated"))
    report = revoker.end("kill+freeze", [f"agent:{path}"], reason="deactivated", by=by, wait=True)
    # Last: a row with the status "ended" is never killed again, so the store must have the kill before.
    db.sessions.end_of(path)
    return report


def remove_operator(db: MintDatabase, revoker: Revoker, name: str, by: str) -> KillReport:
    """Remove an operator: its keys authenticate nothing at any mint of the realm.

    Returns:
        The kill report.

    Raises:
        GrantError: ``conflict``: no operator would have the role ``admin``.
        StoreError: The outcome is not known: retry.
    """
    db.operators.remove(name, Event.of("operator.removed", by, operator=name))
    return revoker.end("kill+freeze", [f"operator:{name}"], reason="removed", by=by, wait=True)


def _end_row(
    revoker: Revoker, kind: str, row: SessionRow | TaskRow, by: str, end: Callable[[str, Event], int]
) -> KillReport | None:
    if row.status != "open" or row.expires_at <= now_ms():
        return None
    targets = [f"{kind}:{row.id}"]
    # The store keeps this kill until the last token has expired, and not for the realm's whole max_ttl: sessions and
    # tasks end all the time.
    until = row.expires_at
    bump = _kill_until(revoker, targets, f"{kind} ended", by, until)
    report = revoker.settle(bump, BRIEFLY_MS)
    # The row after the kill: a crash in between leaves an open row, which the next attempt kills again.
    latest = end(row.id, Event.of(f"{kind}.ended", by, **{kind: row.id}, seq=bump.header.seq))
    if latest > until:
        # Extended at the same time: a token that was signed in between would outlive the kill.
        revoker.settle(_kill_until(revoker, targets, f"{kind} ended", by, latest), NO_WAIT_MS)
    return report


def _kill_until(revoker: Revoker, targets: Sequence[str], reason: str, by: str, until: int) -> Bump:
    return revoker.change(lambda: revoker.store.kill(targets, reason, by, until_ms=until))
