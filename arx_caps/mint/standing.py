# SPDX-License-Identifier: Apache-2.0
"""Whether what a row tells of still stands: the clock's word and the kill epoch's, beside the row's own.  SPEC 10.

A row says what the mint did.  A kill straight in the store, or a ban on anything above, is known from the epoch alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from arx_caps.mint.core import Born, Mint
from arx_caps.mint.identity import scopes_of, subject_of
from arx_caps.mint.state import now_ms
from arx_verifier.errors import refusal
from arx_verifier.token.targets import agent_scopes

State = Literal["open", "ended", "expired", "killed", "frozen"]
_OF_CODE: Final[dict[str, State]] = {"revoked": "killed", "banned": "frozen"}


def session_scopes(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the scopes whose kill or ban ends a session, from its row."""
    own = (f"session:{row['id']}", *scopes_of(subject_of(row)))
    return ("realm", f"policy:{row['policy']}", *agent_scopes(row["agent"]), *own)


def task_scopes(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the scopes whose kill or ban ends a task, from its row; its links are not among them."""
    subject = (row["subject_scope"],) if row["subject_scope"] is not None else ()
    above = msgspec.json.decode(row["above"], type=list[str])
    own = (f"task:{row['id']}", f"session:{row['session']}", *subject, *(f"task:{task}" for task in above))
    return ("realm", f"policy:{row['policy']}", *agent_scopes(row["agent"]), *own)


def require_standing(
    mint: Mint, born: Born, task: Mapping[str, Any], session: Mapping[str, Any], links: Sequence[str] = ()
) -> None:
    """Hold a task and its session to their own births, and links of the task to its own, as they came later.

    Args:
        mint: The mint.
        born: Read before; what is asked is on that view or a later one.
        task: The task's row.
        session: The session's row.
        links: Scopes of links.

    Raises:
        RevokedError: Something in their scopes was killed since, or is banned.
        UnavailableError: The view is not live.
    """
    for row, scopes in ((task, (*task_scopes(task), *links)), (session, session_scopes(session))):
        if row["inc"] != born.inc:
            raise refusal("revoked")
        mint.require(Born(row["inc"], row["born"]), scopes)


def session_state(mint: Mint, row: Mapping[str, Any]) -> State:
    """Tell the state of a session."""
    return _state(mint, row, session_scopes(row))


def task_state(mint: Mint, row: Mapping[str, Any]) -> State:
    """Tell the state of a task; one whose newest grant was killed is shown as killed."""
    return _state(mint, row, (*task_scopes(row), f"link:{row['link']}"))


def stands(mint: Mint, session: Mapping[str, Any]) -> bool:
    """Tell whether a session could still be used, now or after a thaw."""
    return session_state(mint, session) in ("open", "frozen")


def _state(mint: Mint, row: Mapping[str, Any], scopes: tuple[str, ...]) -> State:
    if row["status"] != "open":
        return "ended"
    if row["expires_at"] <= now_ms():
        return "expired"
    refused = mint.epochs.check(row["inc"], row["born"], scopes)
    return _OF_CODE.get(refused.code, "open") if refused is not None else "open"
