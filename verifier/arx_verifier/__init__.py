# SPDX-License-Identifier: Apache-2.0
"""Verify, attenuate and hand over ARx tokens.  The front door; see SPEC.md for what the bytes mean.

A name's module is imported when the name is used first (PEP 562): a holder needs no verifier, and a command line that
only reads an error's class needs neither.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from arx_verifier.access import AccessRequest, HttpCall, read_json_object
    from arx_verifier.asgi import ArxMiddleware
    from arx_verifier.caveats import Caveat
    from arx_verifier.constraints import Constraint, Rule
    from arx_verifier.counters import RedisNonces
    from arx_verifier.decisions import Decision
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
    from arx_verifier.grant import Grant
    from arx_verifier.guard import current_grant, protect
    from arx_verifier.keys import KeyRing
    from arx_verifier.macaroon import Identifier, Macaroon
    from arx_verifier.proofs import CallSigner
    from arx_verifier.service import open_verifier
    from arx_verifier.verify import Verifier

_MODULE_OF = {
    "AccessError": "errors",
    "AccessRequest": "access",
    "ArxError": "errors",
    "ArxMiddleware": "asgi",
    "AttenuationError": "errors",
    "CallSigner": "proofs",
    "Caveat": "caveats",
    "Constraint": "constraints",
    "Decision": "decisions",
    "Failure": "errors",
    "Grant": "grant",
    "GrantError": "errors",
    "HttpCall": "access",
    "Identifier": "macaroon",
    "KeyRing": "keys",
    "Macaroon": "macaroon",
    "RedisNonces": "counters",
    "RequestError": "errors",
    "Rule": "constraints",
    "SettingsError": "errors",
    "TokenError": "errors",
    "UnavailableError": "errors",
    "Verifier": "verify",
    "current_grant": "guard",
    "open_verifier": "service",
    "protect": "guard",
    "read_json_object": "access",
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
