# SPDX-License-Identifier: Apache-2.0
"""Verify, attenuate and delegate ARx tokens: the public names of the package.  SPEC.md defines the bytes."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    __version__: str
    from arx_verifier.constraints import Constraint, Rule
    from arx_verifier.enforcement import ArxMiddleware, ArxWSGI, current_grant, protect
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
    from arx_verifier.journal import Decision
    from arx_verifier.request import AccessRequest, HttpCall, read_json_object
    from arx_verifier.service import open_verifier
    from arx_verifier.token import CallSigner, Caveat, Identifier, KeyRing, Macaroon
    from arx_verifier.verification import Grant, RedisNonces, Verifier
else:
    # Imported on first use: a holder needs no verifier, and a command that only reads an error class needs neither.
    _exported, __dir__ = open_door(
        __name__,
        {
            "constraints": "Constraint Rule",
            "enforcement": "ArxMiddleware ArxWSGI current_grant protect",
            "errors": (
                "AccessError ArxError AttenuationError Failure GrantError RequestError SettingsError TokenError "
                "UnavailableError"
            ),
            "journal": "Decision",
            "request": "AccessRequest HttpCall read_json_object",
            "service": "open_verifier",
            "token": "CallSigner Caveat Identifier KeyRing Macaroon",
            "verification": "Grant RedisNonces Verifier",
        },
    )

    def __getattr__(name):
        if name != "__version__":
            return _exported(name)
        from importlib.metadata import version  # no other name needs it, and its import is slow

        globals()[name] = version("arx-verifier")
        return globals()[name]


__all__ = [
    "AccessError",
    "AccessRequest",
    "ArxError",
    "ArxMiddleware",
    "ArxWSGI",
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
