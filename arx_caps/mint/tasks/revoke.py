# SPDX-License-Identifier: Apache-2.0
"""End things: kills, freezes and thaws, and what they mean for the mint's own rows.  SPEC 10.

The store comes first: what is written there is in force, whatever happens to the rest.  Then the database and the
record follow, and only then is it answered.  Repeating any of it is harmless, which is how a crash in between is
mended.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Literal

from arx_caps.mint.context import MintContext
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.state import now_ms
from arx_caps.revocation import Bump, KillReport, StoreHistoryError, parse_targets
from arx_verifier.errors import ArxError, AuditError, UnavailableError

Op = Literal["kill", "kill+freeze", "freeze", "thaw"]
NO_WAIT_MS: Final = 0
BRIEFLY_MS: Final = 50  # live verifiers confirm in a few; whoever finishes a task need not wait for a dead one's lease


def end_targets(mint: MintContext, op: Op, targets: Sequence[str], *, reason: str, by: str, wait: bool) -> KillReport:
    """Kill, freeze or thaw targets, as an operator asks.

    Args:
        mint: The mint.
        op: ``kill`` does to each target what a kill of its kind is.
        targets: At least one.
        reason: Kept in the log.
        by: Who.
        wait: Whether to wait until every verifier has confirmed.

    Returns:
        The kill report.

    Raises:
        RequestError: A target is not one.
        StoreError: The outcome is not known; repeat it.
        AuditError: It is in force, and could not be recorded.
    """
    parse_targets(targets)
    store = mint.store
    if op == "thaw":
        # First: what the database has for ended is frozen again wherever the store has lost it.
        _thaw(mint, targets, by)
    what: dict[str, Callable[[], Bump]] = {
        "kill": lambda: store.kill_by_kind(targets, reason, by),
        "kill+freeze": lambda: store.kill_and_freeze(targets, reason, by),
        "freeze": lambda: store.freeze(targets, reason, by),
        "thaw": lambda: store.thaw(targets, reason, by),
    }
    bump = _in_history(mint, what[op])
    report = _settle(mint, bump, None if wait else NO_WAIT_MS)
    _record(mint, bump, f"targets.{'thawed' if op == 'thaw' else 'frozen' if op == 'freeze' else 'killed'}", by, reason)
    return report


def finish_task(mint: MintContext, task: Mapping[str, Any], by: str) -> KillReport | None:
    """Finish a task: every token of it, and of its parts, is dead.

    Returns:
        The kill report; None when it had ended before, and so needed none.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    row = {**task, "expires_at": mint.state.task_over_at(task["id"])}
    return _end_row(mint, "task", row, by, mint.state.end_task)


def end_session(mint: MintContext, session: Mapping[str, Any], by: str) -> KillReport | None:
    """End a session: it and every task of it are dead.

    Returns:
        The kill report; None when it had ended before, and so needed none.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    return _end_row(mint, "session", session, by, mint.state.end_session)


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
    bump = _in_history(mint, lambda: mint.store.kill(targets, "task attenuated", by))
    return _settle(mint, bump, BRIEFLY_MS)


def withdraw_target(mint: MintContext, target: str, by: str) -> KillReport:
    """End the discharge of an approval wherever it is; that it was withdrawn is the event.

    Args:
        mint: The mint.
        target: The approval's own.
        by: Who.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    bump = _in_history(mint, lambda: mint.store.kill_by_kind([target], "approval withdrawn", by))
    return _settle(mint, bump, None)


def deactivate(mint: MintContext, path: str, by: str, reason: str) -> KillReport:
    """Deactivate an agent: what it and all below it hold is revoked, and it gets nothing more until it is thawed.

    Returns:
        The kill report.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    targets = [f"agent:{path}"]
    # In the database first: a crash in between leaves an agent that gets nothing, never one that goes on.
    mint.state.set_agent_status(path, "deactivated", Event.of("agent.deactivated", by, agent=path, reason=reason))
    report = end_targets(mint, "kill+freeze", targets, reason=reason, by=by, wait=True)
    # Last: a row that says "ended" is never killed again, so it may say so only once the store has the kill.
    mint.state.end_sessions_of(path)
    return report


def remove_operator(mint: MintContext, name: str, by: str) -> KillReport:
    """Remove an operator: its keys sign nothing any more, here and at every other mint of the realm.

    Returns:
        The kill report.

    Raises:
        GrantError: ``conflict``: nobody would be left who may do everything.
        StoreError: The outcome is not known; repeat it.
    """
    mint.state.remove_operator(name, Event.of("operator.removed", by, operator=name))
    return end_targets(mint, "kill+freeze", [f"operator:{name}"], reason="removed", by=by, wait=True)


def _end_row(
    mint: MintContext, kind: str, row: Mapping[str, Any], by: str, end: Callable[[str, Event], int]
) -> KillReport | None:
    if row["status"] != "open" or row["expires_at"] <= now_ms():
        return None
    targets = [f"{kind}:{row['id']}"]
    # The record of the kill is kept until the last token it ends has expired, and not for a realm's whole max_ttl.
    until = int(row["expires_at"])
    bump = _kill_until(mint, targets, f"{kind} ended", by, until)
    report = _settle(mint, bump, BRIEFLY_MS)
    latest = end(row["id"], Event.of(f"{kind}.ended", by, **{kind: row["id"]}, seq=bump.header.seq))
    if latest > until:
        # It was prolonged while it was ended: what was signed then lives longer than the kill would be remembered.
        _settle(mint, _kill_until(mint, targets, f"{kind} ended", by, latest), NO_WAIT_MS)
    return report


def _kill_until(mint: MintContext, targets: Sequence[str], reason: str, by: str, until: int) -> Bump:
    return _in_history(mint, lambda: mint.store.kill(targets, reason, by, until_ms=until))


def _in_history(mint: MintContext, change: Callable[[], Bump]) -> Bump:
    """Make a change; if somebody gave the store a new history meanwhile, look at it and try once more."""
    try:
        return change()
    except StoreHistoryError:
        mint.history.attest()
        # Before the change, which may be a thaw; what fails here is tried again, and a kill does not wait for it.
        with contextlib.suppress(ArxError):
            mint.freezes.restore()
        return change()


def _thaw(mint: MintContext, targets: Sequence[str], by: str) -> None:
    for target in targets:
        path = target.removeprefix("agent:")
        agent = mint.state.agent(path) if path != target else None
        if agent is not None and agent["status"] != "active":
            mint.state.set_agent_status(path, "active", Event.of("agent.thawed", by, agent=path))


def _record(mint: MintContext, bump: Bump, kind: str, by: str, reason: str) -> None:
    seq = bump.header.seq
    try:
        mint.freezes.follow()
        mint.state.record(Event.of(kind, by, targets=list(bump.targets), seq=seq, reason=reason, durable=bump.durable))
    except UnavailableError as error:
        raise AuditError(f"it is in force as number {seq}, but could not be recorded: {error}") from error


def _settle(mint: MintContext, bump: Bump, timeout_ms: int | None) -> KillReport:
    """Learn who has confirmed, then remember the place in the kill sequence; it is not answered before both."""
    report = mint.store.wait_confirmed(bump, timeout_ms)
    mint.noted(bump.header.place)
    return report
