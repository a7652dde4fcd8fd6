# SPDX-License-Identifier: Apache-2.0
"""A new session has the warnings of its agent's earlier ones, so that to open another washes nothing.  SPEC 21.5."""

from contextlib import suppress
from typing import Final

from arx_caps.mint.context import BudgetParts
from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.policy.marks import rows_of, warnings_of
from arx_caps.mint.policy.model import Policy
from arx_verifier.errors import StoreError
from arx_verifier.ledger.pools import MarkQuestion, Taken
from arx_verifier.token.macaroon import MINT_AUDIENCE

MOST: Final = 10_000  # sessions of before: of an agent with more, each warning counts as set
_PART: Final = 500  # sessions that one question reads: an agent with a warning in a new one needs no further question
_UNKNOWN: Final = f"arx.sessions.open {MINT_AUDIENCE}"  # in place of the call that set a mark, where that may be lost


def begin_marks(
    mint: BudgetParts, policy: Policy, session: str, agent: str, subject: Subject | None, now: int
) -> tuple[str, ...]:
    """Register a new session, and set in it the warnings of the agent's sessions that are open or have ended lately.

    Args:
        mint: The mint.
        policy: The policy in force.
        session: The new session, which has no token yet.
        agent: The agent's path.
        subject: The session's subject; sessions of another one, or of none, do not count.
        now: When it is opened, ms since the Unix epoch.

    Returns:
        The names of these warnings.

    Raises:
        StoreError: The ledger did not answer: the session must not be opened, as a warning would be missing.
    """
    templates = policy.templates.values()
    # Without the ledger it is opened all the same: then every warning counts as set in it.
    if mint.ledger is not None and any(each.after or rows_of(each) for each in templates):
        with suppress(StoreError):
            mint.ledger.register_session(session, now)
    names = warnings_of(templates)
    if not policy.carry_ms or not names:
        return ()
    whose = (subject.issuer, subject.name) if subject is not None else (None, None)
    earlier = mint.db.sessions.not_ended_by(agent, whose, now - policy.carry_ms, MOST + 1)
    if not earlier:
        return ()
    if mint.ledger is None:
        raise StoreError("the policy carries marks into new sessions: set `ledger` in the mint's settings")
    found = dict.fromkeys(names, "") if len(earlier) > MOST else {}
    for at in range(0, len(earlier), _PART):
        if missing := [name for name in names if name not in found]:
            found |= mint.ledger.warnings(earlier[at : at + _PART], missing)
    by_call: dict[str, list[str]] = {}
    for name, by in found.items():
        by_call.setdefault(by or _UNKNOWN, []).append(f"w:s:{name}")
    for by, fields in by_call.items():
        question = MarkQuestion(session, now, now, by, sets=tuple(fields))
        if not isinstance(mint.ledger.take("draw", "", (), None, question), Taken):
            raise StoreError("the ledger has just begun, and sets no marks yet")
    return tuple(sorted(found))
