# SPDX-License-Identifier: Apache-2.0
"""Whether a row's session or task is alive: by its status, the clock and the kill epoch.  SPEC 10.

A row records what the mint did.  A kill straight in the store, or a freeze of anything above, is in the epoch alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from arx_caps.mint.context import Born, MintContext
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.identity.session_login import subject_of, subject_targets
from arx_verifier.errors import refusal
from arx_verifier.token import agent_targets

State = Literal["open", "ended", "expired", "killed", "frozen"]
_OF_CODE: Final[dict[str, State]] = {"revoked": "killed", "frozen": "frozen"}


def session_targets(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the targets whose kill or freeze ends a session, from its row."""
    own = (f"session:{row['id']}", *subject_targets(subject_of(row)))
    return ("realm", f"policy:{row['policy']}", *agent_targets(row["agent"]), *own)


def task_targets(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the targets whose kill or freeze ends a task, from its row; its links are not among them."""
    subject = (row["subject_target"],) if row["subject_target"] is not None else ()
    above = msgspec.json.decode(row["above"], type=list[str])
    own = (f"task:{row['id']}", f"session:{row['session']}", *subject, *(f"task:{task}" for task in above))
    return ("realm", f"policy:{row['policy']}", *agent_targets(row["agent"]), *own)


def require_standing(
    mint: MintContext, born: Born, task: Mapping[str, Any], session: Mapping[str, Any], links: Sequence[str] = ()
) -> None:
    """Hold a task and its session to their own births, and links of the task to its own, as they came later.

    Args:
        mint: The mint.
        born: Read before; what is asked is on that view or a later one.
        task: The task's row.
        session: The session's row.
        links: Targets of links.

    Raises:
        RevokedError: Something in their targets was killed since, or is frozen.
        UnavailableError: The view is not live.
    """
    for row, targets in ((task, (*task_targets(task), *links)), (session, session_targets(session))):
        if row["incarnation"] != born.incarnation:
            raise refusal("revoked")
        mint.require(Born(row["incarnation"], row["born"]), targets)


def session_state(mint: MintContext, row: Mapping[str, Any]) -> State:
    """Tell the state of a session."""
    return _state(mint, row, session_targets(row))


def task_state(mint: MintContext, row: Mapping[str, Any]) -> State:
    """Tell the state of a task; one whose newest grant was killed is shown as killed."""
    return _state(mint, row, (*task_targets(row), f"link:{row['link']}"))


def stands(mint: MintContext, session: Mapping[str, Any]) -> bool:
    """Tell whether a session could still be used, now or after a thaw."""
    return session_state(mint, session) in ("open", "frozen")


def _state(mint: MintContext, row: Mapping[str, Any], targets: tuple[str, ...]) -> State:
    if row["status"] != "open":
        return "ended"
    if row["expires_at"] <= now_ms():
        return "expired"
    refused = mint.epochs.check(row["incarnation"], row["born"], targets)
    return _OF_CODE.get(refused.code, "open") if refused is not None else "open"
