# SPDX-License-Identifier: Apache-2.0
"""Parse the rate limits of a realm's settings.  CONTROL 4.5.

The mint applies them.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from arx_verifier.errors import SettingsError

MAX_RATE: Final = 1_000_000


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

    agent_rate: int = 200
    agent_burst: int = 2000
    address_rate: int = 20
    address_burst: int = 200
    refusal_rate: int = 50
    proxies: tuple[str, ...] = ()


DEFAULT_LIMITS: Final = Limits()


def read_limits(settings: Mapping[str, Any]) -> Limits:
    """Return the limits in a realm's settings.

    Args:
        settings: The members of ``realm.toml``.

    Raises:
        SettingsError: A limit is not usable.
    """
    rates = {name: settings[name] for name in ("agent_rate", "address_rate", "refusal_rate") if name in settings}
    bursts = {name: settings[name] for name in ("agent_burst", "address_burst") if name in settings}
    for least, numbers in ((0, rates), (1, bursts)):
        for name, value in numbers.items():
            if type(value) is not int or not least <= value <= MAX_RATE:
                raise SettingsError(f"invalid {name}: expected a number from {least} to {MAX_RATE}, got {value!r}")
    proxies = settings.get("proxies", [])
    try:
        networks = tuple(str(ipaddress.ip_network(network)) for network in proxies)
    except (TypeError, ValueError):
        networks = ()
    if not isinstance(proxies, list) or len(networks) != len(proxies):
        raise SettingsError(f'invalid proxies: expected a list of networks such as ["10.0.0.0/8"], got {proxies!r}')
    return Limits(**rates, **bursts, proxies=networks)
