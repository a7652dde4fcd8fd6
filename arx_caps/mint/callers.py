# SPDX-License-Identifier: Apache-2.0
"""Who is calling: a token, and a proof by the key it belongs to, both checked before anything is done.  SPEC 16.

An operator's token goes with an enrolled key of that operator, a session's with the key the session was opened with: a
stolen token alone does nothing.  The proof is spent only once its key is known, so that strangers cannot fill the
memory of used ones.  What the caller wants is judged here as an action with arguments; what it gets, by others.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from arx_caps.jose import BAD_PROOF, Proof, check_dpop
from arx_caps.mint.core import Born, Mint
from arx_caps.mint.operator_token import check_operator_token
from arx_caps.mint.state import now_ms
from arx_verifier.access import AccessRequest
from arx_verifier.errors import GrantError, refusal
from arx_verifier.macaroon import Macaroon, OperatorIdentifier

Kind = Literal["agent", "operator"]
# What takes power away, or only looks, must not wait for a live view: with a stale one an operator still kills.
GIVING: Final = ("arx.agents.write", "arx.services.write", "arx.ban.lift")


class Call(NamedTuple):
    """One HTTP request, as far as it says who is calling.

    Attributes:
        method: The method.
        url: The address as clients know it: issuer and path, no query.
        authorization: The header, or None.
        proofs: Every ``DPoP`` header.
        peer: The peer's address, or None.
    """

    method: str
    url: str
    authorization: str | None
    proofs: tuple[str, ...]
    peer: str | None


class Caller(NamedTuple):
    """A proven caller.

    Attributes:
        kind: ``agent`` or ``operator``.
        name: The agent's path or the operator's id.
        session: The session's row, for an agent.
        born: Where the kill epoch stood before the caller was looked at; None for an operator.
        expires_at: When the token's time is over, ms.
    """

    kind: Kind
    name: str
    session: Mapping[str, Any] | None
    born: Born | None
    expires_at: int

    @property
    def by(self) -> str:
        """How records name the caller."""
        return f"{self.kind}:{self.name}"


def read_proof(call: Call, token: str | None) -> Proof:
    """Check the one ``DPoP`` header, except that it is new and whose key it is.

    Raises:
        GrantError: ``bad_proof``.
    """
    if len(call.proofs) != 1:
        raise GrantError("a request carries one DPoP header, signed by the caller's key for this call", code=BAD_PROOF)
    return check_dpop(call.proofs[0], method=call.method, url=call.url, now=now_ms(), token=token)


def read_token(call: Call) -> str:
    """Return the token of the ``Authorization`` header.

    Raises:
        TokenError: There is none, or it is of another scheme (``missing_token``).
    """
    scheme, _, token = (call.authorization or "").partition(" ")
    if scheme.lower() != "dpop" or not token:
        raise refusal("missing_token")
    return token


def identify(mint: Mint, call: Call, action: str, args: Mapping[str, Any]) -> Caller:
    """Prove who is calling, and that the token allows this action.

    Args:
        mint: The mint.
        call: The request.
        action: What is to be done, such as ``arx.tasks.start``.
        args: With what: the body's members and the path's.

    Returns:
        The caller.

    Raises:
        TokenError: No token, or one that is not usable.
        AccessError: The token does not allow this.
        GrantError: The proof is wrong or was used.
        UnavailableError: It cannot be known now.
    """
    token = read_token(call)
    proof = read_proof(call, token)
    macaroon = Macaroon.parse(token)
    unverified = macaroon.unverified_identifier
    if isinstance(unverified, OperatorIdentifier):
        return _operator(mint, macaroon, unverified, proof, action, args)
    return _agent(mint, token, unverified.session, proof, call, action, args)


def _operator(
    mint: Mint, macaroon: Macaroon, unverified: OperatorIdentifier, proof: Proof, action: str, args: Mapping[str, Any]
) -> Caller:
    name = unverified.operator
    if mint.state.find_key(f"operator:{name}", proof.key.kid) is None:
        raise GrantError("the proof is not by a key of this operator", code=BAD_PROOF)
    asked = None if action == "arx.whoami" else action
    identifier = check_operator_token(macaroon, mint.keys, action=asked, args=args, now=now_ms())
    mint.state.spend("proof", proof.key.kid, proof.jti, proof.until)
    row = mint.state.operator(name)
    if row is None or row["status"] != "active":
        raise refusal("banned")
    # A ban counts whenever it came; a floor does not, because operators' tokens know no birth.
    _, applied, _ = mint.epochs.view()
    refused = mint.epochs.check(None, max(applied, 0), (f"operator:{name}",))
    if refused is not None and (refused.code in ("banned", "revoked") or action in GIVING):
        raise refusal(refused.code)
    return Caller("operator", name, None, None, identifier.exp)


def _agent(
    mint: Mint, token: str, session: str, proof: Proof, call: Call, action: str, args: Mapping[str, Any]
) -> Caller:
    born = mint.born()  # before any authority is looked at
    row = mint.state.session(session)
    if row is None or row["jkt"] != proof.key.kid:
        raise GrantError("the proof is not by the key of this session", code=BAD_PROOF)
    mint.state.spend("proof", proof.key.kid, proof.jti, proof.until)
    grant = mint.verifier.verify(token, AccessRequest(action, args, now_ms(), call.peer))
    agent = mint.state.agent(grant.agent)
    if row["status"] != "open" or grant.session != session:
        raise refusal("revoked")
    if agent is None or agent["status"] != "active":
        raise refusal("banned")
    return Caller("agent", grant.agent, row, born, grant.exp)
