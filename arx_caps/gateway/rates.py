# SPDX-License-Identifier: Apache-2.0
"""How many messages of an agent the gateway forwards, and how many of them may be open.

A call over the rate is decided on and not forwarded.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from arx_caps.buckets import Buckets
from arx_caps.gateway.settings import RateTerms, read_rate


class OverRateError(Exception):
    """An agent calls too often.

    Attributes:
        wait_s: The time until a call is forwarded again, s.
    """

    def __init__(self, what: str, wait_s: int) -> None:
        super().__init__(f"{what} too often: wait {wait_s} s")
        self.wait_s = wait_s


class Rates:
    """The rates of one upstream, in the memory of this process: two gateways forward twice as many.

    Args:
        terms: The upstream's table.
    """

    def __init__(self, terms: RateTerms) -> None:
        self._agents, self._tools = _buckets(terms.agent), _buckets(terms.tool)
        self._most, self._open = terms.open, Counter[str]()

    def charge(self, agent: str, tool: str = "") -> None:
        """Charge an agent for a message; one that is not forwarded costs nothing.

        Args:
            agent: The agent that the mint proved, whose delegations share its rate.
            tool: The tool that the message calls; empty if it calls none.

        Raises:
            OverRateError: It sends too many.
        """
        # Checked first: a call over the rate of its tool must not use up what the agent has for other tools.
        wanted = [(self._agents, agent, f"{agent} calls")] if self._agents is not None else []
        if self._tools is not None and tool:
            wanted.append((self._tools, f"{agent} {tool}", f"{agent} calls {tool}"))
        for cost in (0, 1):
            for buckets, name, what in wanted:
                if wait_s := buckets.take(name, cost):
                    raise OverRateError(what, wait_s)

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
