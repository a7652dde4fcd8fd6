# SPDX-License-Identifier: Apache-2.0
"""A realm's settings for OAuth clients that no operator has registered.  CONTROL 5.10.

The mint registers them.
"""

import re
from typing import Annotated, Final, NamedTuple, TypeAlias

from msgspec import Meta

from arx_caps.settings.toml_file import duration, several, text_that
from arx_verifier import names

MAX_HOSTS: Final = 64
MAX_SCOPES: Final = 32
MOST: Final = 100_000
DEFAULT_UNUSED_MS: Final = 30 * 24 * 3_600_000
UNUSED_MS: Final = (24 * 3_600_000, 365 * 24 * 3_600_000)

# A name, so that no address of the own network can be listed by its number; with a port unless it is 443.
_HOST: Final = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9](:[1-9][0-9]{0,4})?")


def _is_name(scope: str) -> bool:
    return 0 < len(scope) <= 64 and scope.isascii() and " " not in scope


def _is_host(host: str) -> bool:
    return len(host) <= 253 and _HOST.fullmatch(host) is not None


ClientScope: TypeAlias = Annotated[str, text_that(_is_name, "the name of a template, such as lookup")]
ClientHost: TypeAlias = Annotated[str, text_that(_is_host, "the name of a host, such as app.example")]


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

    agent: Annotated[str, text_that(names.is_agent_path, "the path of an enrolled agent")]
    scopes: Annotated[tuple[ClientScope, ...], several("template", 'for example ["lookup"]', MAX_SCOPES)]
    register: bool = False
    hosts: Annotated[tuple[ClientHost, ...], Meta(max_length=MAX_HOSTS)] = ()
    most: Annotated[int, Meta(ge=1, le=MOST)] = 1000
    unused_ms: Annotated[int, duration(least=UNUSED_MS[0], most=UNUSED_MS[1])] = DEFAULT_UNUSED_MS
