# SPDX-License-Identifier: Apache-2.0
"""The birth of a session or task, the caveats that its grant becomes, and the tokens signed. SPEC 4, 6, 15.1.

No authority is read in here: whether a token may be signed is decided before.
"""

import secrets
from base64 import b32encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from arx_caps.mint.context import Born
from arx_caps.mint.db.tables import AgentRow
from arx_caps.mint.keys.key_schedule import KeySchedule
from arx_caps.mint.policy.budgets import caveats_of_budgets
from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.policy.model import TaskGrant
from arx_caps.mint.tasks.discharge import require_approvals
from arx_caps.settings.realm import Realm
from arx_verifier import jcs
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import AttenuationError, GrantError, MalformedTokenError
from arx_verifier.token import wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.holder import audience_public
from arx_verifier.token.macaroon import ABOUT, ID_BYTES, MAX_ABOUT_CHARS, MINT_AUDIENCE, Identifier, Macaroon

SESSION_ACTIONS: Final = tuple(
    Rule(tool=action)
    for action in (
        "arx.approvals.ask",
        "arx.approvals.read",
        "arx.sessions.end",
        "arx.sessions.read",
        "arx.sessions.renew",
        "arx.tasks.extend",
        "arx.tasks.finish",
        "arx.tasks.attenuate",
        "arx.tasks.read",
        "arx.tasks.start",
        "arx.whoami",
    )
)
MAX_MODEL_CHARS: Final = 96


class Birth(NamedTuple):
    """The members that all tokens of a session or a grant share.

    Attributes:
        agent: The agent's row.
        born: The position in the kill epoch that was read before any authority.
        session: The session's id.
        task: The task's id; None for a session's token.
        policy: The policy's digest.
        at: When it is signed, in ms since the Unix epoch.
        expires_at: When it expires, in ms since the Unix epoch.
        depth: How many delegations may follow.
        link: The tokens' id, which is their first link.
        subject: The subject on whose behalf the session runs, or None.
        holder: The first holder's key of a bound task, 43 characters; None for bearer tokens.
    """

    agent: AgentRow
    born: Born
    session: str
    task: str | None
    policy: str
    at: int
    expires_at: int
    depth: int
    link: str
    subject: Subject | None
    holder: str | None = None

    @property
    def path(self) -> str:
        """The agent's path."""
        return self.agent.path

    def identifier(self, audience: str, kid: str, key: bytes) -> Identifier:
        """Return the identifier of its token for an audience, which the key of this id signs."""
        return Identifier(
            agent=self.path,
            aud=audience,
            aud_key=audience_public(key) if self.holder is not None else None,
            born=self.born[:2],
            depth=self.depth,
            exp=self.expires_at,
            holder=self.holder,
            iat=self.at,
            id=self.link,
            kid=kid,
            meta=meta_of(self.agent),
            model=model_of(self.agent),
            policy=self.policy,
            session=self.session,
            subject=(self.subject.issuer, self.subject.name) if self.subject is not None else None,
            task=self.task,
            v=1,
        )


def caveats_of(grant: TaskGrant, opened: int, session_opened: int) -> dict[str, tuple[Caveat, ...]]:
    """Return by audience the mint's own caveats of its token.

    Args:
        grant: The policy's grant.
        opened: When its budgets were opened: the start of the task, ms since the Unix epoch.
        session_opened: When its session was opened, ms since the Unix epoch.
    """
    # The same pools at every service: a task spends its budget once, and not once at each.
    pools = caveats_of_budgets(grant.budgets, opened)
    # Likewise the same rows about marks, and in the first caveat: rows of a later one are a holder's (SPEC 21.3).
    rows = grant.marks | {"opened": session_opened} if grant.marks else {}
    caveats: dict[str, tuple[Caveat, ...]] = {}
    for audience, rules in grant.rules.items():
        first = Caveat(
            allow=rules,
            delegate_to=grant.delegate_to or None,
            **{name: limit for name, limit in grant.limits.items() if limit != ()},
            **rows,
        )
        # A second caveat for the tools that the agent asked for: all caveats must hold, so it can only attenuate.
        fewer = grant.fewer_tools.get(audience)
        caveats[audience] = (first, Caveat(allow=fewer), *pools) if fewer else (first, *pools)
    return caveats


def keys_for(key_schedule: KeySchedule, audiences: Iterable[str]) -> dict[str, tuple[str, bytes]]:
    """Return by audience the key id and key with which its tokens are minted now."""
    return {audience: key_schedule.audience_key(audience) for audience in audiences}


def sign_tokens(
    realm: Realm,
    birth: Birth,
    caveats: Mapping[str, Sequence[Caveat]],
    keys: Mapping[str, tuple[str, bytes]],
    needs: Mapping[str, Sequence[Any]],
) -> dict[str, str]:
    """Mint a token for each audience. They share their id, so that one kill revokes all.

    Args:
        realm: The realm's settings.
        birth: The members that they share.
        caveats: By audience, the mint's caveats.
        keys: By audience, key id and key.
        needs: By audience, the terms of each approval that its token requires; see ``require_approvals``.

    Raises:
        GrantError: ``bad_parameters``: a token would be too large.
    """
    tokens = {}
    for audience, (kid, key) in keys.items():
        own = birth.identifier(audience, kid, key)
        try:
            made = Macaroon.mint(own, key=key, realm=realm.name, caveats=tuple(caveats[audience]))
            made = require_approvals(made, kid, key, str(birth.task), needs.get(audience, ()))
        except (AttenuationError, MalformedTokenError) as error:
            raise GrantError(
                f"what this task grants at {audience} does not fit into a token: {error}", code="bad_parameters"
            ) from error
        tokens[audience] = made.encode()
    return tokens


def sign_session(realm: Realm, key_schedule: KeySchedule, birth: Birth) -> str:
    """Mint a session's token, which only the mint accepts."""
    kid, key = key_schedule.mint_key()
    identifier, caveats = birth.identifier(MINT_AUDIENCE, kid, key), (Caveat(allow=SESSION_ACTIONS),)
    return Macaroon.mint(identifier, key=key, realm=realm.name, caveats=caveats).encode()


def write_bundle(realm: Realm, birth: Birth, origins: Mapping[str, Sequence[str]], tokens: Mapping[str, str]) -> str:
    """Return the text of a bundle, a secret. SPEC 15.1."""
    return write_bundle_of(realm, birth.path, birth.task, origins, tokens)


def write_bundle_of(
    realm: Realm, agent: str, task: str | None, origins: Mapping[str, Sequence[str]], tokens: Mapping[str, str]
) -> str:
    """Return the text of a bundle of an agent's tokens, a secret. SPEC 15.1."""
    content = {
        "agent": agent,
        "issuer": realm.issuer,
        "origins": {audience: list(origins[audience]) for audience in tokens},
        "realm": realm.name,
        "task": task,
        "tokens": dict(tokens),
        "v": 1,
    }
    return wire.BUNDLE_PREFIX + wire.text_of(jcs.encode(content))


def model_of(agent: AgentRow) -> str | None:
    """Return the agent's model, as enrolled and as its tokens have it, or None."""
    model = agent.metadata.get("model")
    return model[:MAX_MODEL_CHARS] if model else None


def meta_of(agent: AgentRow) -> tuple[str, ...] | None:
    """Return what a token says of its agent beside the model, or None for nothing."""
    enrolled = agent.metadata | {"owner": agent.owner or ""}
    # Cut to what fits: a long description must not keep an agent from its tokens.
    values = [enrolled.get(name, "")[:MAX_ABOUT_CHARS] for name in ABOUT]
    while values and not values[-1]:
        values.pop()
    return tuple(values) or None


def new_link() -> str:
    """Return a random token id, which is the first link of its tokens."""
    return wire.text_of(secrets.token_bytes(ID_BYTES))


def new_name(prefix: str) -> str:
    """Return a random id with a prefix, such as ``t-…``."""
    return prefix + b32encode(secrets.token_bytes(10)).decode("ascii").lower()
