# SPDX-License-Identifier: Apache-2.0
"""How many messages of an agent the gateway forwards, and how many of them may be open.

A call over the rate is decided on and not forwarded.  Programs that registered themselves are one agent of many people:
each person has at most as much as is left for all others, so that one cannot use up what the agent has.
"""

import contextlib
import math
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Final

from arx_caps.gateway.base.settings import RateTerms, read_rate
from arx_caps.http.buckets import MAX_BUCKETS

Person = tuple[str, str] | None  # issuer and subject; None where an agent acts for itself, and has all
_LEAST_SCALE: Final = 1e-6
_FORGOTTEN: Final = 0.01  # calls


class OverRateError(Exception):
    """An agent calls too often.

    Attributes:
        wait_s: The time until a call is forwarded again, s.
    """

    def __init__(self, what: str, wait_s: int) -> None:
        super().__init__(f"{what} too often: wait {wait_s} s")
        self.wait_s = wait_s


def has_room(own: float, all_used: float, most: float, person: Person | str) -> bool:
    """Return whether a caller may use one more of what an agent has.

    Args:
        own: What the person's callers of the agent use.
        all_used: What all callers of the agent use.
        most: What the agent has.
        person: The person that the agent acts for; None or an empty text if it acts for itself.
    """
    left = most - all_used
    return left >= 1 and (not person or own + 1 <= left)


class Rates:
    """The rates of one upstream, in the memory of this process: two gateways forward twice as many.

    Args:
        terms: The upstream's table.
    """

    def __init__(self, terms: RateTerms) -> None:
        self._agents, self._tools = _shared(terms.agent), _shared(terms.tool)
        self._most, self._open, self._opened = terms.open, Counter[str](), Counter[tuple[str, Person]]()

    def charge(self, agent: str, person: Person, tool: str = "") -> None:
        """Charge an agent and a person for a message; one that is not forwarded costs nothing.

        Args:
            agent: The agent that the mint proved, whose delegations share its rate.
            person: The person that it acts for.
            tool: The tool that the message calls; empty if it calls none.

        Raises:
            OverRateError: It sends too many.
        """
        # Checked first: a call over the rate of its tool must not use up what the agent has for other tools.
        wanted = [(self._agents, agent, f"{agent} calls")] if self._agents is not None else []
        if self._tools is not None and tool:
            wanted.append((self._tools, f"{agent} {tool}", f"{agent} calls {tool}"))
        for rate, name, what in wanted:
            if wait_s := rate.wait(name, person):
                raise OverRateError(f"{what} for one person" if person and not rate.wait(name, None) else what, wait_s)
        for rate, name, _ in wanted:
            rate.take(name, person)

    @contextlib.asynccontextmanager
    async def opened(self, agent: str, person: Person) -> AsyncIterator[None]:
        """Count a request or a stream of an agent while it is open.

        Args:
            agent: The agent that the mint proved.
            person: The person that it acts for.

        Raises:
            OverRateError: It has too many.
        """
        # Streams may be open for long: those of one agent must take neither all places nor connections to the upstream.
        own = self._opened[agent, person]
        if not has_room(own, self._open[agent], self._most, person):
            text = f"{own} requests and streams open for one person" if person else f"{own} requests and streams open"
            raise OverRateError(f"{agent} has {text}, and calls", 1)
        self._count(agent, person, 1)
        try:
            yield
        finally:
            self._count(agent, person, -1)

    def _count(self, agent: str, person: Person, more: int) -> None:
        self._open[agent] += more
        self._opened[agent, person] += more
        if not self._opened[agent, person]:
            del self._opened[agent, person]
        if not self._open[agent]:
            del self._open[agent]


class SharedRate:
    """What agents have used of a rate, and each person of it; both become less at the rate.

    Args:
        rate: Calls a second.
        burst: Calls at once.
        clock: A monotonic clock, s.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._pools: OrderedDict[str, _Pool] = OrderedDict()

    def wait(self, name: str, person: Person) -> int:
        """Return after how many seconds a call may be made; 0 for now.

        Args:
            name: Whose rate it is.
            person: The person that the call is for.
        """
        pool = self._pools.get(name)
        if pool is None:
            return 0
        pool.drain(self._clock(), self._rate)
        own, used = pool.own(person), pool.used
        if has_room(own, used, self._burst, person):
            return 0
        surplus = used - (self._burst - 1)
        if person:  # both shrink alike, until the person has less than is left
            surplus = max(surplus, used - used * (self._burst - 1) / (own + used))
        return max(1, math.ceil(surplus / self._rate))

    def take(self, name: str, person: Person) -> None:
        """Count a call.

        Args:
            name: Whose rate it is.
            person: The person that the call is for.
        """
        pool = self._pools.setdefault(name, _Pool(self._clock()))
        self._pools.move_to_end(name)
        pool.add(person)
        if len(self._pools) > MAX_BUCKETS:
            self._pools.popitem(last=False)  # the least recently used one has drained by then


class _Pool:
    """What one agent has used.

    Attributes:
        used: By all its callers, calls.
    """

    def __init__(self, now: float) -> None:
        self.used, self._at, self._scale = 0.0, now, 1.0
        self._persons: dict[Person, float] = {}  # what each has used, without the scale that all of them shrink by

    def drain(self, now: float, rate: float) -> None:
        """Shrink to what is used at a time."""
        before, self.used = self.used, max(0.0, self.used - (now - self._at) * rate)
        self._at = now
        self._scale *= self.used / before if before else 1.0
        if self._scale < _LEAST_SCALE:
            shrunk = {person: each * self._scale for person, each in self._persons.items()}
            self._persons = {person: each for person, each in shrunk.items() if each > _FORGOTTEN}
            self._scale = 1.0

    def own(self, person: Person) -> float:
        """Return what a person has used."""
        return self._persons.get(person, 0.0) * self._scale

    def add(self, person: Person) -> None:
        """Count a call."""
        self.used += 1
        if person:
            self._persons[person] = self._persons.get(person, 0.0) + 1 / self._scale


def _shared(text: str | None) -> SharedRate | None:
    rate = None if text is None else read_rate(text)
    return None if rate is None else SharedRate(rate[0] / (rate[1] / 1000), rate[0])
