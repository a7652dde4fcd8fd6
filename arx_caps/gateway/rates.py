# SPDX-License-Identifier: Apache-2.0
"""How often an agent may call through the gateway, and how many calls of it may be open.

A call over the rate is decided on and not forwarded.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from arx_caps.buckets import Buckets
from arx_caps.gateway.settings import RateTerms, read_rate
from arx_verifier.verification import Grant


class OverRateError(Exception):
    """An agent calls too often.

    Attributes:
        wait_s: The time until a call is forwarded again, s.
    """

    def __init__(self, what: str, wait_s: int) -> None:
        super().__init__(f"{what} too often: wait {wait_s} s")
        self.wait_s = wait_s


class Rates:
    """The rates of one upstream, in the memory of this process: two gateways forward twice as many calls.

    Args:
        terms: The upstream's table.
    """

    def __init__(self, terms: RateTerms) -> None:
        self._agents, self._tools = _buckets(terms.agent), _buckets(terms.tool)
        self._most, self._open = terms.open, Counter[str]()

    def charge(self, grant: Grant) -> None:
        """Charge an agent for a call.

        Args:
            grant: The call's grant; its delegations share the rate of the agent that the mint proved.

        Raises:
            OverRateError: It calls too often.
        """
        if self._agents is not None and (wait_s := self._agents.take(grant.agent)):
            raise OverRateError(f"{grant.agent} calls", wait_s)
        if self._tools is not None and (wait_s := self._tools.take(f"{grant.agent} {grant.tool}")):
            raise OverRateError(f"{grant.agent} calls {grant.tool}", wait_s)

    @contextlib.asynccontextmanager
    async def opened(self, agent: str) -> AsyncIterator[None]:
        """Count a request or a stream of an agent while it is open.

        Args:
            agent: The agent that the mint proved.

        Raises:
            OverRateError: It has too many.
        """
        # Streams may be open for long: those of one agent must take neither all places nor connections to the upstream.
        if self._open[agent] >= self._most:
            raise OverRateError(f"{agent} has {self._most} requests and streams open, and calls", 1)
        self._open[agent] += 1
        try:
            yield
        finally:
            self._open[agent] -= 1
            if not self._open[agent]:
                del self._open[agent]


def _buckets(text: str | None) -> Buckets | None:
    rate = None if text is None else read_rate(text)
    return None if rate is None else Buckets(rate[0] / (rate[1] / 1000), rate[0])
