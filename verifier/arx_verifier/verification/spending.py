# SPDX-License-Identifier: Apache-2.0
"""Spend what a call uses up, in the nonce store: itself, and the approvals that are good once.  SPEC 8.3, 6.8.

Last of all that is asked, so that a refused call costs nothing.  How a store remembers is ``nonces``'s.
"""

from typing import Final

from arx_verifier.errors import StoreError
from arx_verifier.request import AccessRequest
from arx_verifier.token import call_proof
from arx_verifier.token.call_proof import PresentedCall
from arx_verifier.verification.chain_state import ProvenChain, Refused
from arx_verifier.verification.nonces import NonceStore
from arx_verifier.verification.reasons import BEFORE_START, NO_STORE, ONCE_AGE, ONCE_USED, REPLAYED, ahead, used_up

ONCE_MS: Final = 24 * 60 * 60 * 1000  # how long a ``once`` is good
ONCE_AHEAD_MS: Final = 60_000  # the mint's clock against this one: nobody waits for longer
ONCE_KEEP_MS: Final = ONCE_MS + 60_000  # how long it is remembered: as long as it is good by the slowest worker's clock


def spend(
    nonces: NonceStore, proven: ProvenChain, call: PresentedCall | None, request: AccessRequest
) -> Refused | None:
    """Spend a call and each ``once`` of its credential.

    Args:
        nonces: What was spent before.
        proven: The chain.
        call: What was presented, or None for a whole token.
        request: What is asked for.

    Returns:
        None when all were new.
    """
    try:
        if call is not None:
            issued_at = call.issued_at
            # The signature covers nonce, time and call: spending it spends exactly this call of this parent.
            fresh = nonces.spend(call.signature, issued_at + call_proof.KEEP_MS, request.at)
            if fresh is None:
                return NO_STORE
            if issued_at < nonces.not_before_ms:
                # Read after spending, which may have moved it: the store cannot know what was used before that time.
                return BEFORE_START
            if not fresh:
                return REPLAYED
        return _spend_once(nonces, proven, request.at) if proven.once else None
    except StoreError:
        return NO_STORE


def _spend_once(nonces: NonceStore, proven: ProvenChain, now_ms: int) -> Refused | None:
    identifier = proven.identifier
    task = identifier.task or identifier.session  # a token for the mint has no task
    for place, _, issued_at in proven.once:
        if not now_ms - ONCE_MS < issued_at <= now_ms + ONCE_AHEAD_MS:
            return used_up(place, ONCE_AGE)
        if issued_at > now_ms:
            # A store that began anew before that time would take it for given since, and the name for new.
            return ahead(place, issued_at - now_ms)
    for place, name, issued_at in proven.once:
        # By its own time alone, and not by the token's: a holder who attenuates a token to a second could have the name
        # forgotten with it, and use it again with the token as it was.
        fresh = nonces.spend(f"once:{task}:{name}", issued_at + ONCE_KEEP_MS, now_ms)
        if fresh is None:
            return NO_STORE
        if issued_at < nonces.not_before_ms:
            return used_up(place, ONCE_AGE)
        if not fresh:
            return used_up(place, ONCE_USED)
    return None
