# SPDX-License-Identifier: Apache-2.0
"""Parse a realm's settings for OAuth clients that no operator has registered.  CONTROL 5.10.

The mint registers them.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from arx_caps.settings.durations import format_duration, parse_duration
from arx_verifier import names
from arx_verifier.errors import SettingsError

MEMBERS: Final = (
    "clients_agent",
    "clients_scopes",
    "clients_register",
    "clients_hosts",
    "clients_most",
    "clients_unused",
)
MAX_HOSTS: Final = 64
# A name, so that no address of the own network can be listed by its number; with a port unless it is 443.
_HOST: Final = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9](:[1-9][0-9]{0,4})?")
MAX_SCOPES: Final = 32
MOST: Final = 100_000
DEFAULT_UNUSED_MS: Final = 30 * 24 * 3_600_000
UNUSED_MS: Final = (24 * 3_600_000, 365 * 24 * 3_600_000)


class SelfRegistration(NamedTuple):
    """What clients may be that no operator has registered.

    Attributes:
        agent: The path of the enrolled agent that all of them are.
        scopes: The templates that they may ask a person for.
        register: Whether they may register themselves (RFC 7591).
        hosts: The hosts whose documents describe clients, with their port unless it is 443; empty for none.
        most: How many there are at most that registered themselves.
        unused_ms: How long one lives that gets no access token, ms.
    """

    agent: str
    scopes: tuple[str, ...]
    register: bool = False
    hosts: tuple[str, ...] = ()
    most: int = 1000
    unused_ms: int = DEFAULT_UNUSED_MS


def read_self_registration(settings: Mapping[str, Any]) -> SelfRegistration | None:
    """Return the members ``clients_…`` of a realm's settings; None without any.

    Args:
        settings: The members of ``realm.toml``.

    Raises:
        SettingsError: One is missing or not usable.
    """
    written = {name.removeprefix("clients_"): settings[name] for name in MEMBERS if name in settings}
    if not written:
        return None
    # Their access tokens are given by a person's consent alone.
    if "login_issuer" not in settings:
        raise SettingsError("invalid clients_…: expected login_issuer beside it, where people log in")
    scopes = written.get("scopes")
    if not isinstance(scopes, list) or not 0 < len(scopes) <= MAX_SCOPES or not all(map(_is_name, scopes)):
        raise SettingsError(f'invalid clients_scopes: expected a list of templates such as ["lookup"], got {scopes!r}')
    register, most = written.get("register", False), written.get("most", 1000)
    if type(register) is not bool:
        raise SettingsError(f"invalid clients_register: expected true or false, got {register!r}")
    if type(most) is not int or not 1 <= most <= MOST:
        raise SettingsError(f"invalid clients_most: expected a number from 1 to {MOST}, got {most!r}")
    hosts = written.get("hosts", [])
    if not isinstance(hosts, list) or len(hosts) > MAX_HOSTS or not all(map(_is_host, hosts)):
        raise SettingsError(f'invalid clients_hosts: expected a list of names such as ["app.example"], got {hosts!r}')
    agent: Any = written.get("agent")
    if not names.is_agent_path(agent):
        raise SettingsError(f"invalid clients_agent: expected the path of an enrolled agent, got {agent!r}")
    unused_ms = _unused(written.get("unused", format_duration(DEFAULT_UNUSED_MS)))
    return SelfRegistration(agent, tuple(scopes), register, tuple(hosts), most, unused_ms)


def _is_name(scope: Any) -> bool:
    return isinstance(scope, str) and 0 < len(scope) <= 64 and scope.isascii() and " " not in scope


def _is_host(host: Any) -> bool:
    return isinstance(host, str) and len(host) <= 253 and _HOST.fullmatch(host) is not None


def _unused(text: Any) -> int:
    try:
        unused_ms = parse_duration(text)
    except ValueError:
        unused_ms = 0
    if not UNUSED_MS[0] <= unused_ms <= UNUSED_MS[1]:
        raise SettingsError(f"invalid clients_unused: expected a duration from 1d to 365d, got {text!r}")
    return unused_ms
