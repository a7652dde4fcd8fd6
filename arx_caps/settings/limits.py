# SPDX-License-Identifier: Apache-2.0
"""The rate limits of a realm's settings.  CONTROL 4.5.

The mint applies them.
"""

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from arx_caps.settings.forms import Network

MAX_RATE: Final = 1_000_000
Rate: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_RATE)]
Burst: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_RATE)]


@dataclass(frozen=True, slots=True)
class Limits:
    """How often a caller may call the mint.

    Attributes:
        agent_rate: Calls a second of one agent; 0 for no limit.
        agent_burst: Calls of one agent at once.
        address_rate: Unauthenticated calls a second from one address; 0 for no limit.
        address_burst: Unauthenticated calls from one address at once.
        refusal_rate: Refused calls of one agent in a minute of which operators are notified; 0 for none.
        proxies: Networks of proxies whose ``X-Forwarded-For`` the mint trusts.
    """

    agent_rate: Rate = 200
    agent_burst: Burst = 2000
    address_rate: Rate = 20
    address_burst: Burst = 200
    refusal_rate: Rate = 50
    proxies: tuple[Network, ...] = ()


DEFAULT_LIMITS: Final = Limits()
