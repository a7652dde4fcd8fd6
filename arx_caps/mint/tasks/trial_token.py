# SPDX-License-Identifier: Apache-2.0
"""Judge a call with a token as a task would have, which is shown to no caller.  CONTROL 5.14."""

from collections.abc import Mapping
from typing import Any

from arx_caps.mint.context import Born
from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.policy.model import Policy, TaskGrant
from arx_caps.mint.tasks.token_factory import Birth, new_link, new_name
from arx_verifier.journal import Decision, InMemoryDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.revocation import Epochs
from arx_verifier.token import KeyRing
from arx_verifier.verification import Verifier


def trial_birth(
    policy: Policy,
    grant: TaskGrant,
    agent: Mapping[str, Any],
    born: Born,
    at_ms: int,
    max_ttl_ms: int,
    subject: Subject | None = None,
) -> Birth:
    """Return the birth of a task that is not stored.

    Args:
        policy: The policy that grants it.
        grant: What it grants.
        agent: The agent's row.
        born: Its position in the kill epoch.
        at_ms: When it would start, in ms since the Unix epoch.
        max_ttl_ms: The realm's longest token life, ms.
        subject: The subject on whose behalf it would run, or None.
    """
    expires_at = at_ms + min(grant.ttl_ms, max_ttl_ms)
    session, task = new_name("s-"), new_name("t-")
    return Birth(agent, born, session, task, policy.digest, at_ms, expires_at, 0, new_link(), subject)


def judge_token(audience: str, keys: KeyRing, epochs: Epochs, token: str, request: AccessRequest) -> Decision:
    """Return the decision on a call, as a verifier of the service makes it; nothing is recorded.

    Args:
        audience: The service.
        keys: The keys of the realm, with that of the token.
        epochs: The kills and freezes in force.
        token: The token.
        request: The call.
    """
    verifier = Verifier(audience=audience, keys=keys, epochs=epochs, decisions=InMemoryDecisions())
    return verifier.decide(token, request)
