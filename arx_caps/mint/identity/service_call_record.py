# SPDX-License-Identifier: Apache-2.0
"""What a tool service asks with a key of its own is a decision with a record, too.  SPEC 12, 21.5.

They stand in the mint's own journal as ``service:<audience>``, with the key's thumbprint as key id.  A batch that is
taken has no record of its own: it stands in the log, with the statement with which its service answers for it.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

from arx_caps.mint.context import Mint
from arx_caps.mint.identity.call_record import PROVEN, record_decision
from arx_verifier.errors import AccessError, ArxError, GrantError, RequestError, TokenError
from arx_verifier.journal.decision import ChainFacts
from arx_verifier.request import AccessRequest
from arx_verifier.token.macaroon import MINT_AUDIENCE

JOIN: Final = "arx.services.join"
SHIP: Final = "arx.decisions.write"
REFUSALS: Final = (AccessError, GrantError, RequestError, TokenError)  # what cannot be done now is none


def record_service_call(mint: Mint, audience: str, kid: str, request: AccessRequest, error: ArxError | None) -> None:
    """Record what was decided on a service's call.

    Args:
        mint: The mint.
        audience: The service.
        kid: The thumbprint of the key that signed the call.
        request: The action as the tool, and with what.
        error: The refusal; None when it goes ahead.

    Raises:
        AuditError: An allow cannot be recorded, and must not go ahead.
    """
    policy = mint.loaded.digest
    facts = ChainFacts(agent=f"service:{audience}", audience=MINT_AUDIENCE, policy=policy, kid=kid, assurance=PROVEN)
    record_decision(mint, facts, request, error)


@contextlib.contextmanager
def refusing(mint: Mint, audience: str, kid: str, request: AccessRequest) -> Iterator[None]:
    """Record a refusal that comes out of the block."""
    try:
        yield
    except REFUSALS as error:
        record_service_call(mint, audience, kid, request, error)
        raise


@contextlib.contextmanager
def deciding(mint: Mint, audience: str, kid: str, request: AccessRequest) -> Iterator[None]:
    """Record a refusal that comes out of the block, or that there was none.

    Raises:
        AuditError: That cannot be recorded, and must not go ahead.
    """
    with refusing(mint, audience, kid, request):
        yield
    record_service_call(mint, audience, kid, request, None)
