# SPDX-License-Identifier: Apache-2.0
"""Sign again what was issued before, for a call that is repeated because its answer was lost.  CONTROL 4.4.

A recipe has what the tokens say, without their signatures.  Signed again they have the birth, the expiry and the link
of the first tokens: a kill of those ends these.  They may be signed with another key than the first tokens; so what is
over is not signed again at all.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from arx_caps.mint.context import Born, MintContext
from arx_caps.mint.identity.session_login import subject_of
from arx_caps.mint.tasks.liveness import session_targets
from arx_caps.mint.tasks.token_factory import Birth, keys_for, sign_session, sign_tokens, write_bundle
from arx_verifier.errors import GrantError, refusal
from arx_verifier.token import Caveat, read_caveat


def recipe_of(
    birth: Birth,
    kids: Iterable[str],
    caveats: Mapping[str, Sequence[Caveat]] | None = None,
    origins: Mapping[str, Sequence[str]] | None = None,
    needs: Mapping[str, Sequence[Sequence[str]]] | None = None,
) -> dict[str, Any]:
    """Write down what is to be signed; no secret.

    Args:
        birth: What is born.
        kids: The ids of the keys that it is signed with.
        caveats: The caveats of each audience, for a task.
        origins: Where each audience lives, for a task.
        needs: The tools of each approval that each audience's token requires, for a task.
    """
    said = {"born": birth.born, "at": birth.at, "expires_at": birth.expires_at, "depth": birth.depth}
    said |= {"link": birth.link, "policy": birth.policy, "origins": origins, "kids": [*kids]}
    if caveats is not None:
        said["needs"] = needs or {}
        said["caveats"] = {name: [each.encode().decode() for each in those] for name, those in caveats.items()}
    return said


def reissue_session(mint: MintContext, recipe: Mapping[str, Any], session: Mapping[str, Any]) -> str:
    """Sign a session's token once more.

    Raises:
        RevokedError: The session, or the key that its token was signed with, is no longer good.
        UnavailableError: That is not known now.
    """
    _require_alive(mint, recipe, session, ())
    return sign_session(mint, _birth(mint, recipe, session, None))


def reissue_task(mint: MintContext, recipe: Mapping[str, Any], session: Mapping[str, Any], task: str) -> str:
    """Sign a task's tokens once more, and write its bundle.

    Raises:
        GrantError: It does not fit into a token any more, after what is said of the agent grew.
        RevokedError: What was signed before, or a key that it was signed with, is no longer good.
        UnavailableError: That is not known now.
    """
    _require_alive(mint, recipe, session, (f"task:{task}",))
    birth = _birth(mint, recipe, session, task)
    caveats = {name: [read_caveat(each.encode()) for each in those] for name, those in recipe["caveats"].items()}
    # What was written before there were approvals requires none.
    tokens = sign_tokens(mint, birth, caveats, keys_for(mint, caveats), recipe.get("needs", {}))
    return write_bundle(mint, birth, recipe["origins"], tokens)


def _require_alive(
    mint: MintContext, recipe: Mapping[str, Any], session: Mapping[str, Any], more: Sequence[str]
) -> None:
    if session["status"] != "open":
        raise refusal("revoked")
    keys = (f"key:{kid}" for kid in recipe.get("kids", ()))
    mint.require(Born(*recipe["born"]), (*session_targets(session), f"link:{recipe['link']}", *more, *keys))


def _birth(mint: MintContext, recipe: Mapping[str, Any], session: Mapping[str, Any], task: str | None) -> Birth:
    agent = mint.db.agents.find(session["agent"])
    if agent is None:
        raise GrantError("the agent is not there any more", code="conflict")
    return Birth(
        agent,
        Born(*recipe["born"]),
        session["id"],
        task,
        recipe["policy"],
        recipe["at"],
        recipe["expires_at"],
        recipe["depth"],
        recipe["link"],
        subject_of(session),
    )
