# SPDX-License-Identifier: Apache-2.0
"""End tasks, sessions, links, approvals, agents and operators: their rows, and the kills that go with them.  SPEC 10.

``revocation.revoker`` kills; what a kill means for the mint's own rows is in here.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from arx_caps.mint.context import MintContext
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.revocation.revoker import NO_WAIT_MS
from arx_caps.revocation import Bump, KillReport

BRIEFLY_MS: Final = 50  # live verifiers confirm in a few; whoever finishes a task need not wait for a dead one's lease


def finish_task(mint: MintContext, task: Mapping[str, Any], by: str) -> KillReport | None:
    """Finish a task: every token of it, and of its parts, is dead.

    Returns:
        The kill report; None when it had ended before, and so needed none.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    row = {**task, "expires_at": mint.db.tasks.over_at(task["id"])}
    return _end_row(mint, "task", row, by, mint.db.tasks.end)


def end_session(mint: MintContext, session: Mapping[str, Any], by: str) -> KillReport | None:
    """End a session: it and every task of it are dead.

    Returns:
        The kill report; None when it had ended before, and so needed none.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    return _end_row(mint, "session", session, by, mint.db.sessions.end)


def kill_links(mint: MintContext, links: Collection[str], by: str) -> KillReport:
    """End the tokens of some links and all that was made of them; for their task, others follow.

    Args:
        mint: The mint.
        links: First links of grants.
        by: Who.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    targets = [f"link:{link}" for link in sorted(links)]
    bump = mint.revoker.change(lambda: mint.store.kill(targets, "task attenuated", by))
    return mint.revoker.settle(bump, BRIEFLY_MS)


def withdraw_target(mint: MintContext, target: str, by: str) -> KillReport:
    """End the discharge of an approval wherever it is; that it was withdrawn is the event.

    Args:
        mint: The mint.
        target: The approval's own.
        by: Who.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    bump = mint.revoker.change(lambda: mint.store.kill_by_kind([target], "approval withdrawn", by))
    return mint.revoker.settle(bump, None)


def deactivate(mint: MintContext, path: str, by: str, reason: str) -> KillReport:
    """Deactivate an agent: what it and all below it hold is revoked, and it gets nothing more until it is thawed.

    Returns:
        The kill report.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    targets = [f"agent:{path}"]
    # In the database first: a crash in between leaves an agent that gets nothing, never one that goes on.
    mint.db.agents.set_status(path, "deactivated", Event.of("agent.deactivated", by, agent=path, reason=reason))
    report = mint.revoker.end("kill+freeze", targets, reason=reason, by=by, wait=True)
    # Last: a row that says "ended" is never killed again, so it may say so only once the store has the kill.
    mint.db.sessions.end_of(path)
    return report


def remove_operator(mint: MintContext, name: str, by: str) -> KillReport:
    """Remove an operator: its keys sign nothing any more, here and at every other mint of the realm.

    Returns:
        The kill report.

    Raises:
        GrantError: ``conflict``: nobody would be left who may do everything.
        StoreError: The outcome is not known; repeat it.
    """
    mint.db.operators.remove(name, Event.of("operator.removed", by, operator=name))
    return mint.revoker.end("kill+freeze", [f"operator:{name}"], reason="removed", by=by, wait=True)


def _end_row(
    mint: MintContext, kind: str, row: Mapping[str, Any], by: str, end: Callable[[str, Event], int]
) -> KillReport | None:
    if row["status"] != "open" or row["expires_at"] <= now_ms():
        return None
    targets = [f"{kind}:{row['id']}"]
    # The record of the kill is kept until the last token it ends has expired, and not for a realm's whole max_ttl.
    until = int(row["expires_at"])
    bump = _kill_until(mint, targets, f"{kind} ended", by, until)
    report = mint.revoker.settle(bump, BRIEFLY_MS)
    latest = end(row["id"], Event.of(f"{kind}.ended", by, **{kind: row["id"]}, seq=bump.header.seq))
    if latest > until:
        # It was prolonged while it was ended: what was signed then lives longer than the kill would be remembered.
        mint.revoker.settle(_kill_until(mint, targets, f"{kind} ended", by, latest), NO_WAIT_MS)
    return report


def _kill_until(mint: MintContext, targets: Sequence[str], reason: str, by: str, until: int) -> Bump:
    return mint.revoker.change(lambda: mint.store.kill(targets, reason, by, until_ms=until))
