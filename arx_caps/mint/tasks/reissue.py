# SPDX-License-Identifier: Apache-2.0
"""Sign issued tokens again, for a retry of a call whose answer was lost. CONTROL 4.4."""

# A recipe has the content of the tokens without signatures, so it is no secret. Signed again, they have the birth,
# expiry and link of the first tokens, so that every kill of those revokes these. But they may have a newer key, which
# a freeze of the first key would miss. So nothing that is revoked is signed again, and the first keys are checked too.

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from arx_caps.mint.context import Born, HasDatabase, HasKills, IssuingParts
from arx_caps.mint.db.tables import SessionRow
from arx_caps.mint.identity.session_login import subject_of
from arx_caps.mint.policy.approvals import ApprovalTerms
from arx_caps.mint.tasks.liveness import session_targets
from arx_caps.mint.tasks.token_factory import Birth, keys_for, sign_session, sign_tokens, write_bundle
from arx_verifier.errors import AttenuationError, GrantError, refusal
from arx_verifier.token.caveats import Caveat, read_caveat
from arx_verifier.token.macaroon import Macaroon


def recipe_of(
    birth: Birth,
    kids: Iterable[str],
    caveats: Mapping[str, Sequence[Caveat]] | None = None,
    origins: Mapping[str, Sequence[str]] | None = None,
    needs: Mapping[str, Sequence[ApprovalTerms]] | None = None,
) -> dict[str, Any]:
    """Return the recipe of tokens, which is no secret.

    Args:
        birth: The members that they share.
        kids: The ids of the keys that sign them.
        caveats: By audience, the caveats of a task's token; None for a session.
        origins: By audience, its origins.
        needs: By audience, the terms of each approval that its token requires.
    """
    recipe = {"born": birth.born, "at": birth.at, "expires_at": birth.expires_at, "depth": birth.depth}
    recipe |= {"link": birth.link, "policy": birth.policy, "origins": origins, "kids": [*kids]}
    recipe |= {"holder": birth.holder} if birth.holder is not None else {}
    if caveats is not None:
        recipe["needs"] = msgspec.to_builtins(needs or {})
        recipe["caveats"] = {
            audience: [caveat.encode().decode() for caveat in listed] for audience, listed in caveats.items()
        }
    return recipe


def reissue_session(mint: IssuingParts, recipe: Mapping[str, Any], session: SessionRow) -> str:
    """Sign a session's token again.

    Raises:
        RevokedError: The session, or the key that signed its token, was revoked or frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    _require_alive(mint, recipe, session, ())
    return sign_session(mint.realm, mint.key_schedule, _birth(mint, recipe, session, None))


def reissue_task(mint: IssuingParts, recipe: Mapping[str, Any], session: SessionRow, task: str) -> str:
    """Sign a task's tokens again, and return their bundle, a secret.

    Raises:
        GrantError: A token would be too large, because the agent's metadata grew.
        RevokedError: The task, or a key that signed its tokens, was revoked or frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    tokens = reissue_tokens(mint, recipe, session, task)
    return write_bundle(mint.realm, _birth(mint, recipe, session, task), recipe["origins"], tokens)


def reissue_tokens(mint: IssuingParts, recipe: Mapping[str, Any], session: SessionRow, task: str) -> dict[str, str]:
    """Sign a task's tokens again, and return them by audience, as secrets.

    Raises:
        GrantError: A token would be too large.
        RevokedError: The task, a delegation of it, or a key that signed its tokens, was revoked or frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    _require_alive(mint, recipe, session, (f"task:{task}", *recipe.get("targets", ())))
    birth = _birth(mint, recipe, session, task)
    caveats = {name: [read_caveat(text.encode()) for text in texts] for name, texts in recipe["caveats"].items()}
    tokens = sign_tokens(mint.realm, birth, caveats, keys_for(mint.key_schedule, caveats), recipe.get("needs", {}))
    # After the mint's own, as holders add theirs: delegations, and what they leave.
    added = [read_caveat(text.encode()) for text in recipe.get("added", ())]
    if not added:
        return tokens
    try:
        return {name: Macaroon.parse(token).attenuate(*added).encode() for name, token in tokens.items()}
    except AttenuationError as error:
        raise GrantError(f"the delegated token would not fit: {error}", code="bad_parameters") from error


def _require_alive(mint: HasKills, recipe: Mapping[str, Any], session: SessionRow, more: Sequence[str]) -> None:
    if session.status != "open":
        raise refusal("revoked")
    keys = (f"key:{kid}" for kid in recipe.get("kids", ()))
    mint.kills.require(Born(*recipe["born"]), (*session_targets(session), f"link:{recipe['link']}", *more, *keys))


def _birth(mint: HasDatabase, recipe: Mapping[str, Any], session: SessionRow, task: str | None) -> Birth:
    agent = mint.db.agents.find(session.agent)
    if agent is None:
        raise GrantError("the agent of this session does not exist any more", code="conflict")
    return Birth(
        agent,
        Born(*recipe["born"]),
        session.id,
        task,
        recipe["policy"],
        recipe["at"],
        recipe["expires_at"],
        recipe["depth"],
        recipe["link"],
        subject_of(session),
        recipe.get("holder"),
    )
