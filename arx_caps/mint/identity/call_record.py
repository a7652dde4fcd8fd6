# SPDX-License-Identifier: Apache-2.0
"""Every call of an operator is a decision with a record, reads and refusals too.  SPEC 12, 16.6.

They stand in the mint's own journal beside those on agents' calls, under the name ``operator:<id>`` and with the digest
of what was asked.  A call that cannot be recorded is refused: for a kill there is then the way straight to the store,
which needs no mint.
"""

from typing import Final

from arx_caps.mint.context import Mint
from arx_verifier.errors import ArxError, AuditError
from arx_verifier.journal.decision import OK, ChainFacts, Decision, digest_arguments
from arx_verifier.request import AccessRequest
from arx_verifier.token.macaroon import MINT_AUDIENCE, OperatorIdentifier

PROVEN: Final = "key"  # each call is signed with an enrolled key


def record_call(mint: Mint, identifier: OperatorIdentifier, request: AccessRequest, error: ArxError | None) -> None:
    """Record what was decided on a proven operator's call.

    Args:
        mint: The mint.
        identifier: The proven token's.
        request: The action as the tool, and with what.
        error: The refusal; None when it goes ahead.

    Raises:
        AuditError: An allow cannot be recorded, and must not go ahead.
    """
    facts = ChainFacts(
        agent=f"operator:{identifier.operator}",
        token=identifier.id,
        audience=MINT_AUDIENCE,
        policy=mint.loaded.digest,
        kid=identifier.kid,
        assurance=PROVEN,
    )
    try:
        record_decision(mint, facts, request, error)
    except AuditError as broken:
        raise AuditError(f"{broken}; `arx kill --direct` needs no mint") from broken


def record_decision(mint: Mint, facts: ChainFacts, request: AccessRequest, error: ArxError | None) -> None:
    """Record what was decided on a call whose caller is proven by a key and has no session.

    Args:
        mint: The mint.
        facts: Who calls.
        request: The action as the tool, and with what.
        error: The refusal; None when it goes ahead.

    Raises:
        AuditError: An allow cannot be recorded, and must not go ahead.
    """
    digest, salt = digest_arguments(request.args)
    incarnation, applied, age_ms = mint.epochs.view()
    code, failures = (OK, ()) if error is None else (error.code, tuple(error.failures))
    decision = Decision(
        code, request.at, facts, request.tool, digest, salt, incarnation, applied, age_ms, failures, request.peer
    )
    try:
        mint.decisions.append(decision)
    except AuditError as broken:
        decision.code = broken.code
        if not broken.counted:
            mint.decisions.append(decision)  # a refusal: there is room kept for it, and it raises nothing
        raise
