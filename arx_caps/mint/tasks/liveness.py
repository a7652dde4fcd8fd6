# SPDX-License-Identifier: Apache-2.0
"""The state of a session or task, by its row, the clock and the kill epoch. SPEC 10."""

from collections.abc import Sequence
from typing import Final, Literal

from arx_caps.mint.context import Born, KillView
from arx_caps.mint.db.tables import SessionRow, TaskRow
from arx_caps.mint.identity.session_login import subject_of, subject_targets
from arx_verifier.clock import now_ms
from arx_verifier.errors import refusal
from arx_verifier.token.targets import agent_targets

State = Literal["open", "ended", "expired", "killed", "frozen"]
_OF_CODE: Final[dict[str, State]] = {"revoked": "killed", "frozen": "frozen"}


# A row records what the mint did. A kill at the store directly, or a freeze of anything above, is in the epoch alone.
def session_targets(row: SessionRow) -> tuple[str, ...]:
    """Return the targets whose kill or freeze revokes a session."""
    own = (f"session:{row.id}", *subject_targets(subject_of(row)))
    return ("realm", f"policy:{row.policy}", *agent_targets(row.agent), *own)


def task_targets(row: TaskRow) -> tuple[str, ...]:
    """Return the targets whose kill or freeze revokes a task, without its links."""
    subject = (row.subject_target,) if row.subject_target is not None else ()
    own = (f"task:{row.id}", f"session:{row.session}", *subject, *(f"task:{task}" for task in row.above))
    return ("realm", f"policy:{row.policy}", *agent_targets(row.agent), *own)


def require_unrevoked(
    kills: KillView, born: Born, task: TaskRow, session: SessionRow, links: Sequence[str] = ()
) -> None:
    """Require that neither a task nor its session was revoked or frozen since their births.

    Args:
        kills: The mint's view of the kill epoch.
        born: A position in the kill epoch that was read before; the check is on that view or a later one.
        task: The task's row.
        session: The session's row.
        links: Targets of links of the task, to check from the task's birth.

    Raises:
        RevokedError: One of their targets was killed since, or is frozen.
        UnavailableError: The view is stale.
    """
    both: tuple[tuple[SessionRow | TaskRow, tuple[str, ...]], ...]
    both = ((task, (*task_targets(task), *links)), (session, session_targets(session)))
    for row, targets in both:
        # Tokens of another history are all revoked: the store does not know its kills.
        if row.incarnation != born.incarnation:
            raise refusal("revoked")
        # From their own births, not from ``born``: a kill between the two has revoked them.
        kills.require(Born(row.incarnation, row.born), targets)


def session_state(kills: KillView, row: SessionRow) -> State:
    """Return the state of a session."""
    return state_by(kills, row, session_targets(row))


def task_state(kills: KillView, row: TaskRow) -> State:
    """Return the state of a task; ``killed`` also if its newest grant was killed."""
    return state_by(kills, row, (*task_targets(row), f"link:{row.link}"))


def is_usable(kills: KillView, session: SessionRow) -> bool:
    """Return whether a session is open, or would be after a thaw."""
    return session_state(kills, session) in ("open", "frozen")


def is_frozen(kills: KillView, targets: Sequence[str]) -> bool:
    """Return whether the mint's view has a freeze of one of these targets."""
    return kills.refusal_now(targets) == "frozen"


def state_by(kills: KillView, row: SessionRow | TaskRow, targets: Sequence[str]) -> State:
    """Return the state of what the kill or freeze of some targets revokes.

    Args:
        kills: The mint's view of the kill epoch.
        row: The row of its task or session.
        targets: The targets.
    """
    if row.status != "open":
        return "ended"
    if row.expires_at <= now_ms():
        return "expired"
    refused = kills.epochs.check(row.incarnation, row.born, targets)
    return _OF_CODE.get(refused.code, "open") if refused is not None else "open"
