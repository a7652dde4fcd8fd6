# SPDX-License-Identifier: Apache-2.0
"""What a service would answer to a call, as far as the token alone says.  SPEC 11, step 4.

No signature is checked, and no kill, freeze, address or nonce is known here: a service may refuse what this allows, and
allows nothing that this refuses.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from arx_caps.agent.tasks.outline import unverified_chain
from arx_verifier.errors import Failure
from arx_verifier.request import AccessRequest
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.reasons import missing_discharge, out_of_time


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


_NO_ADDRESS: Final = frozenset(["net"])


def forecast(
    macaroon: Macaroon, request: AccessRequest, discharges: Sequence[Macaroon] = (), *, anywhere: bool = False
) -> Forecast:
    """Judge a call by the caveats of the token that it would be made with, in the verifier's order.

    Args:
        macaroon: The token.
        request: The call.
        discharges: What goes along with the token.
        anywhere: Judge no address: a holder does not know which one the service sees.

    Raises:
        MalformedTokenError: It is no token of an agent.
    """
    return judge(unverified_chain(macaroon, discharges), request, anywhere=anywhere)


def judge(chain: ProvenChain, request: AccessRequest, *, anywhere: bool = False) -> Forecast:
    """Judge a call as ``forecast`` does, by a token that was read before.

    Args:
        chain: What ``unverified_chain`` returned.
        request: The call.
        anywhere: Judge no address.
    """
    # The verifier's own steps in the verifier's order, so that both give the same reason.
    refused = chain.refused
    if refused is None and not chain.nbf <= request.at < chain.exp:
        refused = out_of_time(chain.nbf, chain.exp, chain.identifier.iat, request.at, request.at)
    if refused is None:
        # A holder behind NAT cannot know the address that the service sees.
        refused = chain.judge_request(request, _NO_ADDRESS if anywhere else frozenset())
    if refused is None:
        refused = chain.judge_tool(request.tool, request.args) or missing_discharge(chain.unmet, request.tool)
    if refused is None:
        return Forecast("ok", needs_call=chain.needs_call)
    return Forecast(refused.code, refused.all_failures(), chain.needs_call)
