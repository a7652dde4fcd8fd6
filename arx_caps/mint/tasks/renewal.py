# SPDX-License-Identifier: Apache-2.0
"""Renew a session within its absolute limit.  SPEC 16, 20.

What opened the session must still hold: the policy in force, the subject, the key or the workload it was opened with.
The token that asks is alive, so nothing in its targets was killed since it was born; the new one is born before
anything is looked at.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from arx_caps.mint.context import Mint
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.state import HighWater, now_ms
from arx_caps.mint.identity.authenticate import Caller
from arx_caps.mint.identity.session_login import subject_of
from arx_caps.mint.policy.claims import keeps
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.tasks.issue import Opened, next_end, within_login
from arx_caps.mint.tasks.token_factory import Birth, new_link, sign_session
from arx_verifier.errors import GrantError


def renew_session(mint: Mint, caller: Caller) -> Opened:
    """Give the caller's session a new token that ends later, never after the session's absolute limit.

    Raises:
        GrantError: The policy in force refuses, what the session was opened with is gone, or its time is over.
        RevokedError: The policy or the mint's key is frozen.
        UnavailableError: The kill epoch is not known now.
    """
    session, born, policy, now = caller.session, caller.born, mint.policy, now_ms()
    agent = mint.state.agent(caller.name)
    if session is None or born is None or agent is None:
        raise GrantError("sessions are renewed by their agents", code="wrong_caller")
    _require_opener(mint, policy, session)
    subject = subject_of(session)
    terms = policy.may_open(caller.name, subject)
    # The policy may have become stricter; that it became laxer does not prolong what was opened before.
    ends_at = min(int(session["ends_at"]), int(session["opened_at"]) + terms.ttl_ms)
    ends_at = within_login(terms, session["subject_until"], ends_at)
    if ends_at <= now:
        raise GrantError("the session has lived as long as the policy lets it; open another", code="session_ended")
    expires_at = next_end(mint, terms, now, ends_at)
    kid, _ = mint.book.mint_key()
    mint.require(born, (f"key:{kid}", f"policy:{policy.digest}"))
    birth = Birth(agent, born, session["id"], None, policy.digest, now, expires_at, 0, new_link(), subject)
    changes = {"expires_at": expires_at, "ends_at": ends_at, "policy": policy.digest}
    what = Event.of("session.renewed", caller.by, session=birth.session, **changes)
    row = mint.state.renew_session(birth.session, changes, HighWater(*born), mint.realm.name, what)
    return Opened(row, sign_session(mint, birth), expires_at)


def _require_opener(mint: Mint, policy: Policy, session: Mapping[str, Any]) -> None:
    """Require that what the session was opened with would still open one."""
    if session["opened_with"] is None:
        return  # opened before this was kept
    opened_with = msgspec.json.decode(session["opened_with"], type=dict[str, str])
    if "key" in opened_with:
        if mint.state.find_key(session["agent"], opened_with["key"]) is None:
            raise GrantError(
                "the key that opened this session is no longer enrolled; open another with one that is",
                code="session_not_allowed",
            )
        return
    trusted = {issuer.name for issuer in policy.issuers.values() if issuer.url == opened_with["issuer"]}
    sub = {"sub": opened_with["sub"]}  # what else its token said is not kept
    known = (each for each in policy.workloads if each.agent == session["agent"] and each.issuer in trusted)
    if not any(keeps({"sub": each.claims["sub"]}, sub) for each in known):
        raise GrantError(
            "the policy no longer takes the workload that opened this session for its agent; open another",
            code="session_not_allowed",
        )
