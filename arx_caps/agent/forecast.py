# SPDX-License-Identifier: Apache-2.0
"""What a service would answer to a call, as far as the token alone says.  SPEC 11, step 4.

No signature is checked, and no kill, ban, address or nonce is known here: a service may refuse what this allows, and
allows nothing that this refuses.
"""

import datetime as dt
from collections.abc import Sequence

import msgspec

from arx_caps.agent.outline import unverified_chain
from arx_verifier.errors import Failure
from arx_verifier.request import AccessRequest
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.chain_state import Refused
from arx_verifier.verification.reasons import missing_discharge


class Forecast(msgspec.Struct, frozen=True):
    """What a service would answer.  True where the token allows the call.

    Attributes:
        code: ``ok`` or a reason code of SPEC 13.
        failures: What was expected and what came.
        needs_call: Whether the call must be signed.
    """

    code: str
    failures: tuple[Failure, ...] = ()
    needs_call: bool = False

    def __bool__(self) -> bool:
        return self.code == "ok"


def forecast(
    macaroon: Macaroon, request: AccessRequest, discharges: Sequence[Macaroon] = (), *, anywhere: bool = False
) -> Forecast:
    """Judge a call by the caveats of the token that it would be made with, in the verifier's order.

    Args:
        macaroon: The token.
        request: The call.
        discharges: What goes along with the token.
        anywhere: Leave the caller's address out of it: a holder does not know as whom the service sees it.

    Raises:
        MalformedTokenError: It is no token of an agent.
    """
    chain = unverified_chain(macaroon, discharges)
    refused = chain.refused
    if refused is None and request.at >= chain.exp:
        refused = Refused("expired", (Failure("token", "exp", f"before {_utc(chain.exp)}", _utc(request.at)),))
    if refused is None and request.at < chain.nbf:
        refused = Refused("not_yet_valid", (Failure("token", "nbf", f"{_utc(chain.nbf)} or later", _utc(request.at)),))
    if refused is None and chain.networks and not anywhere:
        refused = chain.judge_peer(request.peer)
    if refused is None:
        refused = chain.judge_tool(request.tool, request.args) or missing_discharge(chain, request.tool)
    if refused is None:
        return Forecast("ok", needs_call=chain.needs_call)
    return Forecast(refused.code, refused.all_failures(), chain.needs_call)


def _utc(ms: int) -> str:
    try:
        return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms after 1970"
