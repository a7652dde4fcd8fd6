# SPDX-License-Identifier: Apache-2.0
"""Verify, attenuate and hand over ARx tokens.  The front door; see SPEC.md for what the bytes mean."""

from arx_verifier.access import AccessRequest, HttpCall
from arx_verifier.caveats import Caveat
from arx_verifier.constraints import Constraint, Rule
from arx_verifier.decisions import Decision
from arx_verifier.errors import (
    AccessError,
    ArxError,
    AttenuationError,
    GrantError,
    SettingsError,
    TokenError,
    UnavailableError,
)
from arx_verifier.grant import Grant
from arx_verifier.keys import KeyRing
from arx_verifier.macaroon import Identifier, Macaroon
from arx_verifier.proofs import CallSigner
from arx_verifier.verify import Verifier

__all__ = [
    "AccessError",
    "AccessRequest",
    "ArxError",
    "AttenuationError",
    "CallSigner",
    "Caveat",
    "Constraint",
    "Decision",
    "Grant",
    "GrantError",
    "HttpCall",
    "Identifier",
    "KeyRing",
    "Macaroon",
    "Rule",
    "SettingsError",
    "TokenError",
    "UnavailableError",
    "Verifier",
]
