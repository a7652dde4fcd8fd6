# SPDX-License-Identifier: Apache-2.0
"""Proofs by which a client shows its key at the token endpoint.  CONTROL 5.11, RFC 9449 5."""

from typing import Final

from arx_caps.credentials.jose import check_client_dpop
from arx_caps.mint.context import HasRealm
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.oauth.errors import OAuthError
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

TOKEN: Final = "/oauth/token"  # noqa: S105 - a path


def prove_client_key(mint: HasRealm, unit: UnitOfWork, proof: str, token: str | None = None) -> str:
    """Use a proof for the token endpoint once, and return the thumbprint of its key.

    Args:
        mint: The mint.
        unit: The call's unit of work, in which the proof is used.
        proof: The proof.
        token: The access token that it must name (``ath``), a secret; None if it must name none.

    Raises:
        OAuthError: ``invalid_dpop_proof``.
    """
    try:
        proven = check_client_dpop(proof, method="POST", url=mint.realm.issuer + TOKEN, now=now_ms(), token=token)
        unit.spend("client proof", proven.jkt, proven.jti, proven.until)
    except GrantError as error:
        raise OAuthError("invalid_dpop_proof", str(error)) from error
    return proven.jkt
