# SPDX-License-Identifier: Apache-2.0
"""Verify, attenuate and delegate ARx tokens.  The front door; see SPEC.md for what the bytes mean.

A name's module is imported when the name is used first (PEP 562): a holder needs no verifier, and a command line that
only reads an error's class needs neither.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from arx_verifier.constraints.rule import Constraint, Rule
    from arx_verifier.enforcement.asgi import ArxMiddleware
    from arx_verifier.enforcement.guard import current_grant, protect
    from arx_verifier.errors import (
        AccessError,
        ArxError,
        AttenuationError,
        Failure,
        GrantError,
        RequestError,
        SettingsError,
        TokenError,
        UnavailableError,
    )
    from arx_verifier.journal.decision import Decision
    from arx_verifier.request import AccessRequest, HttpCall, read_json_object
    from arx_verifier.service import open_verifier
    from arx_verifier.token.call_proof import CallSigner
    from arx_verifier.token.caveats import Caveat
    from arx_verifier.token.keyring import KeyRing
    from arx_verifier.token.macaroon import Identifier, Macaroon
    from arx_verifier.verification.grant import Grant
    from arx_verifier.verification.nonces import RedisNonces
    from arx_verifier.verification.verifier import Verifier

_MODULE_OF = {
    "AccessError": "errors",
    "AccessRequest": "request",
    "ArxError": "errors",
    "ArxMiddleware": "enforcement.asgi",
    "AttenuationError": "errors",
    "CallSigner": "token.call_proof",
    "Caveat": "token.caveats",
    "Constraint": "constraints.rule",
    "Decision": "journal.decision",
    "Failure": "errors",
    "Grant": "verification.grant",
    "GrantError": "errors",
    "HttpCall": "request",
    "Identifier": "token.macaroon",
    "KeyRing": "token.keyring",
    "Macaroon": "token.macaroon",
    "RedisNonces": "verification.nonces",
    "RequestError": "errors",
    "Rule": "constraints.rule",
    "SettingsError": "errors",
    "TokenError": "errors",
    "UnavailableError": "errors",
    "Verifier": "verification.verifier",
    "current_grant": "enforcement.guard",
    "open_verifier": "service",
    "protect": "enforcement.guard",
    "read_json_object": "request",
}

__all__ = [
    "AccessError",
    "AccessRequest",
    "ArxError",
    "ArxMiddleware",
    "AttenuationError",
    "CallSigner",
    "Caveat",
    "Constraint",
    "Decision",
    "Failure",
    "Grant",
    "GrantError",
    "HttpCall",
    "Identifier",
    "KeyRing",
    "Macaroon",
    "RedisNonces",
    "RequestError",
    "Rule",
    "SettingsError",
    "TokenError",
    "UnavailableError",
    "Verifier",
    "__version__",
    "current_grant",
    "open_verifier",
    "protect",
    "read_json_object",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # loads what nobody else needs

        value: Any = version("arx-verifier")
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
