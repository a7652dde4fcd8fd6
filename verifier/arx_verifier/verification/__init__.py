# SPDX-License-Identifier: Apache-2.0
"""The decision whether a presented token allows a call; the only code that builds a grant.  SPEC 11."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.verification.authenticate import prove
    from arx_verifier.verification.chain_state import ProvenChain
    from arx_verifier.verification.freshness import recheck, recheck_pause
    from arx_verifier.verification.grant import Grant
    from arx_verifier.verification.nonces import MemoryNonces, NonceStore, RedisNonces
    from arx_verifier.verification.reasons import Refused, missing_discharge, out_of_time, too_early, too_late, too_new
    from arx_verifier.verification.verifier import Screened, Verifier
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "authenticate": "prove",
            "chain_state": "ProvenChain",
            "freshness": "recheck recheck_pause",
            "grant": "Grant",
            "nonces": "MemoryNonces NonceStore RedisNonces",
            "reasons": "Refused missing_discharge out_of_time too_early too_late too_new",
            "verifier": "Screened Verifier",
        },
    )

__all__ = [
    "Grant",
    "MemoryNonces",
    "NonceStore",
    "ProvenChain",
    "RedisNonces",
    "Refused",
    "Screened",
    "Verifier",
    "missing_discharge",
    "out_of_time",
    "prove",
    "recheck",
    "recheck_pause",
    "too_early",
    "too_late",
    "too_new",
]
