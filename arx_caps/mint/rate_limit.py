# SPDX-License-Identifier: Apache-2.0
"""Rate limits: token buckets that refill with time, one an agent and one an address.  CONTROL 4.5.

An agent's bucket is charged once its call is authenticated, so no stranger can empty it.  An address is charged for
unauthenticated calls; those of authenticated callers cost it nothing.  The buckets are in this process's memory: two
mints allow twice as much, and a restart fills them.
"""

import functools
import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from arx_caps.limits import Limits
from arx_verifier.enforcement import Peers
from arx_verifier.errors import GrantError

RATE_LIMITED: Final = "rate_limited"
MAX_BUCKETS: Final = 65_536  # 10 MB; the one that was not used for longest goes, and is full again by then
MAX_NAMES: Final = 4096  # addresses of which the bucket is remembered
IPV6_PREFIX: Final = 64  # what one customer of a provider has at least


class TooOftenError(GrantError):
    """Somebody calls more often than the realm's settings allow."""

    status_hint = 429

    def __init__(self, who: str, wait_s: int) -> None:
        super().__init__(f"{who} calls too often; wait {wait_s} s", code=RATE_LIMITED)
        self.wait_s = wait_s


class Buckets:
    """A bucket for each name.

    Args:
        rate: Calls a second that flow in; 0 for no limit.
        burst: Calls that a full bucket holds.
        clock: Seconds; monotonic.
    """

    def __init__(self, rate: int, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._lock = threading.Lock()
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and since when

    def take(self, name: str, cost: int = 1) -> int:
        """Take a call out of a bucket.

        Args:
            name: Whose.
            cost: 0 to look only.

        Returns:
            0, or after how many seconds there is one, when there is none now.
        """
        if self._rate == 0:
            return 0
        now = self._clock()
        with self._lock:
            left, since = self._held.get(name, (float(self._burst), now))
            left = min(self._burst, left + (now - since) * self._rate)
            if left < 1:
                return math.ceil((1 - left) / self._rate)
            if cost:
                self._held[name] = (left - cost, now)
                self._held.move_to_end(name)
                if len(self._held) > MAX_BUCKETS:
                    self._held.popitem(last=False)
        return 0

    def __len__(self) -> int:
        return len(self._held)


class RateLimits:
    """The limits of one mint.

    Args:
        limits: The realm's settings.
        clock: Seconds; monotonic.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._agents = Buckets(limits.agent_rate, limits.agent_burst, clock)
        self._addresses = Buckets(limits.address_rate, limits.address_burst, clock)
        self._peers = Peers(limits.proxies)
        self._proxies = [ipaddress.ip_network(each) for each in limits.proxies]
        self._name = functools.lru_cache(MAX_NAMES)(self._name_of)  # the same clients call again

    def count_agent(self, path: str) -> None:
        """Count a call of a proven agent.

        Raises:
            TooOftenError: It calls too often.
        """
        wait_s = self._agents.take(path)
        if wait_s:
            raise TooOftenError(f"the agent {path}", wait_s)

    def require_address(self, peer: str | None) -> None:
        """Require that calls from an address did not fail too often.

        Raises:
            TooOftenError: They did.
        """
        name = self._name(peer)
        wait_s = self._addresses.take(name, 0) if name is not None else 0
        if wait_s:
            raise TooOftenError("this address", wait_s)

    def count_unproven(self, peer: str | None) -> None:
        """Count a call that proved nobody."""
        name = self._name(peer)
        if name is not None:
            self._addresses.take(name)

    def peer_of(self, peer: str | None, forwarded: list[str]) -> str | None:
        """Return who called: the peer, or for a proxy of the settings whom it names last in ``X-Forwarded-For``.

        Args:
            peer: The address that the connection comes from.
            forwarded: The header's values, in their order.
        """
        return self._peers.of(peer, forwarded)

    def _name_of(self, peer: str | None) -> str | None:
        """Return whose bucket an address' is; None for those that many share: this machine, and proxies."""
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:
            return None
        if address.is_loopback or any(address in network for network in self._proxies):
            return None
        if address.version == 6:
            return str(ipaddress.ip_network((int(address), IPV6_PREFIX), strict=False))
        return str(address)
