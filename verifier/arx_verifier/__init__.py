# SPDX-License-Identifier: Apache-2.0
"""Verify, attenuate and hand over ARx tokens.  The front door; see SPEC.md for what the bytes mean.

A name's module is imported when the name is used first: a holder needs no verifier, and a command line that only reads
an error's class needs neither.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULE_OF = {
    "AccessError": "errors",
    "AccessRequest": "access",
    "ArxError": "errors",
    "AttenuationError": "errors",
    "CallSigner": "proofs",
    "Caveat": "caveats",
    "Constraint": "constraints",
    "Decision": "decisions",
    "Grant": "grant",
    "GrantError": "errors",
    "HttpCall": "access",
    "Identifier": "macaroon",
    "KeyRing": "keys",
    "Macaroon": "macaroon",
    "Rule": "constraints",
    "SettingsError": "errors",
    "TokenError": "errors",
    "UnavailableError": "errors",
    "Verifier": "verify",
}

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


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
