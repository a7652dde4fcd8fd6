# SPDX-License-Identifier: Apache-2.0
"""How often somebody may call the mint, as a realm's settings say it.  SPEC 22.5."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from arx_verifier.errors import SettingsError

MAX_RATE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How often somebody may call the mint.

    Attributes:
        agent_rate: Calls a second of one agent; 0 for no limit.
        agent_burst: Calls that it may make at once.
        address_rate: Calls a second from one address that prove nobody; 0 for no limit.
        address_burst: How many of them at once.
        proxies: Networks whose ``X-Forwarded-For`` is believed.
    """

    agent_rate: int = 200
    agent_burst: int = 2000
    address_rate: int = 20
    address_burst: int = 200
    proxies: tuple[str, ...] = ()


DEFAULT_LIMITS: Final = Limits()


def read_limits(settings: Mapping[str, Any]) -> Limits:
    """Read the limits out of a realm's settings.

    Raises:
        SettingsError: One cannot be used.
    """
    rates = {name: settings[name] for name in ("agent_rate", "address_rate") if name in settings}
    bursts = {name: settings[name] for name in ("agent_burst", "address_burst") if name in settings}
    for least, numbers in ((0, rates), (1, bursts)):
        for name, value in numbers.items():
            if type(value) is not int or not least <= value <= MAX_RATE:
                raise SettingsError(f"{name} is a number from {least} to {MAX_RATE}")
    proxies = settings.get("proxies", [])
    try:
        networks = tuple(str(ipaddress.ip_network(each)) for each in proxies)
    except (TypeError, ValueError):
        networks = ()
    if not isinstance(proxies, list) or len(networks) != len(proxies):
        raise SettingsError('proxies is a list of networks, such as ["10.0.0.0/8"]')
    return Limits(**rates, **bursts, proxies=networks)
