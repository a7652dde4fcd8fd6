# SPDX-License-Identifier: Apache-2.0
"""Route that makes the link by which an operator signs in to the console.  CONTROL 6."""

from typing import Final

from arx_caps.mint.api.endpoint import Endpoint, RouteAnswer, RouteCall
from arx_caps.mint.identity.console_session import make_link
from arx_caps.mint.policy.roles import OPEN_CONSOLE
from arx_verifier.token import wire

OPEN_PATH: Final = "/console/open"


class ConsoleLink(RouteAnswer, frozen=True):
    """A link that signs this operator in once, a secret, and when it expires, ms since the Unix epoch."""

    url: str
    expires_at: int

    def __repr__(self) -> str:
        return "<ConsoleLink>"


def open_console(call: RouteCall) -> ConsoleLink:
    """Return a link that signs the operator in to the console, once."""
    secret, expires_at = make_link(call.mint, call.unit, call.authenticated)
    return ConsoleLink(url=f"{call.mint.realm.issuer}{OPEN_PATH}?link={wire.text_of(secret)}", expires_at=expires_at)


ENDPOINTS: Final = (Endpoint("POST", "/v1/console/links", OPEN_CONSOLE, open_console, one_change=True),)
