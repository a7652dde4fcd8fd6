# SPDX-License-Identifier: Apache-2.0
"""Send approvals along with a call: each bound to the task's token, and none that no service would take.  SPEC 6.6.

A service would say no more than that a discharge is wrong.  What is wrong with it is told here, before it is sent.
"""

from collections.abc import Mapping, Sequence

from arx_caps.agent.approval import Approval, read_discharge
from arx_verifier.errors import ArxError, AttenuationError
from arx_verifier.token import Macaroon, ThirdPartyCaveat, ThirdPartyPacket, discharge


def asks_for(token: Macaroon, approval: Approval, others: Sequence[Approval] = ()) -> bool:
    """Tell whether a task's token has the third-party caveat that an approval answers, or an approval beside it has."""
    asking = [token, *[other.discharge for other in others if other is not approval]]
    return any(
        packet.identifier == approval.discharge.identifier
        for macaroon in asking
        for packet in macaroon.packets
        if isinstance(packet, ThirdPartyPacket)
    )


def add_approvals(text: str, token: Macaroon, approvals: Sequence[Approval], *, audience: str, at: int) -> str:
    """Send approvals along with a call.  SPEC 6.6.

    Args:
        text: The token of one call, made of ``token``.
        token: The task's token.
        approvals: What operators have approved.
        audience: The service that is called.
        at: The holder's clock, ms since the Unix epoch.

    Returns:
        The credential to send.

    Raises:
        AttenuationError: One is not approved yet, over, of another task or for another service; two answer the same; or
            the credential would be too long.
    """
    for approval in approvals:
        refuse_unusable(approval, at)
        if not asks_for(token, approval, approvals):
            raise AttenuationError(_wrong(token, approval, audience))
    answered = [approval.discharge.identifier for approval in approvals]
    for approval, third_party in zip(approvals, answered, strict=True):
        if answered.count(third_party) > 1:
            raise AttenuationError(f"one call carries one approval: {approval} answers what another here does, too")
    return discharge.join(text, [discharge.bind(approval.discharge, token) for approval in approvals])


def spread(approvals: Sequence[Approval], tokens: Mapping[str, Macaroon], at: int) -> dict[str, list[Approval]]:
    """Find out which approvals go to which service.

    Args:
        approvals: What operators have approved.
        tokens: The task's tokens, by audience.
        at: The holder's clock, ms since the Unix epoch.

    Returns:
        Approvals by audience.

    Raises:
        AttenuationError: One of them is for none of these, not approved yet, or over.
    """
    found = {
        audience: [each for each in approvals if asks_for(token, each, approvals)] for audience, token in tokens.items()
    }
    for approval in approvals:
        refuse_unusable(approval, at)
        if not any(approval in those for those in found.values()):
            raise AttenuationError(_wrong(next(iter(tokens.values())), approval, " or ".join(tokens)))
    return found


def refuse_unusable(approval: Approval, at: int) -> None:
    """Refuse what no service would take any more.

    Raises:
        AttenuationError: It is not approved, or over.
    """
    held = approval.discharge
    ends = min((said.exp for said in read_discharge(held) if said.exp is not None), default=None)
    if ends is not None and at >= ends:
        raise AttenuationError(f"{approval} is over since {(at - ends) // 1000} s: ask for another")


def _wrong(token: Macaroon, approval: Approval, audience: str) -> str:
    task = getattr(token.unverified_identifier, "task", None)
    if approval.task != task:
        return f"{approval} is for the task {approval.task}, and this is {task}"
    held = (packet.identifier for packet in token.packets if isinstance(packet, ThirdPartyPacket))
    if any(_of_task(identifier, approval.task) for identifier in held):
        return (
            f"{approval} is of other tools, or was asked for with an older token: ask with the one that you call with"
        )
    return f"{approval} is for a call of another service: the token for {audience} does not ask for it"


def _of_task(identifier: bytes, task: str) -> bool:
    try:
        return ThirdPartyCaveat.read(identifier).id.endswith(f":{task}")
    except ArxError:
        return False
