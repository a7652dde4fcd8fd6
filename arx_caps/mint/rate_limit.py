# SPDX-License-Identifier: Apache-2.0
"""Rate limits: a token bucket for each agent, person with public clients, and address. CONTROL 4.5."""

# An agent's bucket is charged after its call is authenticated, so that no other caller can empty it. An address is
# charged for unauthenticated calls alone. The buckets are in this process's memory: two mints allow twice as many
# calls, and a restart fills them. In the database, each call would cost a write that an attacker can cause.

import functools
import ipaddress
import time
from collections.abc import Callable
from typing import Final, Literal

from arx_caps.http.buckets import Buckets
from arx_caps.settings.limits import Limits
from arx_verifier.enforcement.base.client_address import Peers
from arx_verifier.errors import GrantError

RATE_LIMITED: Final = "rate_limited"
REGISTRATIONS: Final = 20  # of OAuth clients, from one address at once, and then each hour: each is kept for a day
MAX_NAMES: Final = 4096  # addresses whose bucket's name is cached
IPV6_PREFIX: Final = 64  # the smallest network that a provider gives to one customer

Caller = Literal["direct", "forwarded", "hidden", "unlisted"]


class TooOftenError(GrantError):
    """A caller exceeded the realm's rate limit; ``wait_s`` is how long to wait."""

    status_hint = 429

    def __init__(self, caller: str, wait_s: int) -> None:
        super().__init__(f"{caller} calls too often: wait {wait_s} s", code=RATE_LIMITED)
        self.wait_s = wait_s


class RateLimits:
    """The rate limits of one mint.

    Args:
        limits: The realm's settings.
        clock: A monotonic clock, s.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._agents = Buckets(limits.agent_rate, limits.agent_burst, clock)
        self._addresses = Buckets(limits.address_rate, limits.address_burst, clock)
        self._callers = Buckets(limits.address_rate, limits.address_burst, clock)
        self._registrations = Buckets(REGISTRATIONS / 3600, REGISTRATIONS, clock)
        self._peers = Peers(limits.proxies)
        self._proxies = [ipaddress.ip_network(proxy) for proxy in limits.proxies]
        self._name = functools.lru_cache(MAX_NAMES)(self._name_of)  # the same clients call again

    def count_agent(self, path: str) -> None:
        """Charge an authenticated agent for a call.

        Args:
            path: The agent's path.

        Raises:
            TooOftenError: It calls too often.
        """
        wait_s = self._agents.take(path)
        if wait_s:
            raise TooOftenError(f"the agent {path}", wait_s)

    def count_person(self, person: str) -> None:
        """Charge a person for a refresh by a public client, at the rate of an agent.

        Args:
            person: The target that names the person.

        Raises:
            TooOftenError: The clients of the person refresh too often.
        """
        # Not the agent, which clients that registered themselves share: those of one person must not lock out others.
        wait_s = self._agents.take(person)
        if wait_s:
            raise TooOftenError("this person", wait_s)

    def require_address(self, peer: str | None) -> None:
        """Require that an address has not made too many unauthenticated calls.

        Raises:
            TooOftenError: It has.
        """
        name = self._name(peer)
        wait_s = self._addresses.take(name, 0) if name is not None else 0
        if wait_s:
            raise TooOftenError("this address", wait_s)

    def count_unproven(self, peer: str | None) -> None:
        """Charge an address for an unauthenticated call."""
        name = self._name(peer)
        if name is not None:
            self._addresses.take(name)

    def require_caller(self, name: str) -> None:
        """Require that a caller whom the address's limit does not stop has not had too many calls refused.

        Args:
            name: The thumbprint of its key, or the id of its sign-in.

        Raises:
            TooOftenError: It has.
        """
        wait_s = self._callers.take(name, 0)
        if wait_s:
            raise TooOftenError("this caller", wait_s)

    def count_caller(self, name: str) -> None:
        """Charge such a caller for a call that was refused as unauthenticated."""
        self._callers.take(name)

    def count_registration(self, peer: str | None) -> None:
        """Charge an address for an OAuth client that registers itself.

        Raises:
            TooOftenError: Too many have.
        """
        name = self._name(peer)
        wait_s = self._registrations.take(name) if name is not None else 0
        if wait_s:
            raise TooOftenError("this address", wait_s)

    def peer_of(self, peer: str | None, forwarded: list[str]) -> str | None:
        """Return the caller's address: the peer, or the last address that a trusted proxy names.

        Args:
            peer: The address of the connection.
            forwarded: The values of ``X-Forwarded-For``, in order.
        """
        return self._peers.of(peer, forwarded)

    def caller_of(self, peer: str | None, forwarded: list[str]) -> Caller:
        """Return how a request names its sender.

        Args:
            peer: The address of the connection.
            forwarded: The values of ``X-Forwarded-For``, in order.
        """
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:
            return "direct"
        if any(address in network for network in self._proxies):
            return "forwarded" if forwarded else "hidden"
        return "unlisted" if forwarded else "direct"

    def _name_of(self, peer: str | None) -> str | None:
        """Return the name of an address's bucket, or None for an address that many callers share."""
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:
            return None
        # This machine and the proxies: one caller behind them must not lock the others out.
        if address.is_loopback or any(address in network for network in self._proxies):
            return None
        # A caller with a network of 2^64 addresses would have as many buckets.
        if address.version == 6:
            return str(ipaddress.ip_network((int(address), IPV6_PREFIX), strict=False))
        return str(address)
