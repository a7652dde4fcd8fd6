# SPDX-License-Identifier: Apache-2.0
"""The targets: one module a parser, with a law.

Each module has ``check(data)``, which raises if the law is broken or an undocumented exception escapes; ``seeds()``,
the first inputs; and ``MAX_BYTES``, the longest input that is tried.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol, cast

NAMES: Final = (
    "access_request",
    "call_proof",
    "caveat",
    "client_metadata",
    "discharge",
    "event_stream",
    "gateway_text",
    "http_body",
    "http_query",
    "json_rpc",
    "jws",
    "macaroon",
    "openapi_routes",
    "policy_text",
    "realm_text",
    "relay_frames",
    "route_line",
)


class Target(Protocol):
    """What a module of this package has.

    Attributes:
        MAX_BYTES: The longest input.
        check: Tries one input.
        seeds: Returns the first inputs.
    """

    MAX_BYTES: int
    check: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def load(name: str) -> Target:
    """Return a target by its name."""
    return cast("Target", importlib.import_module(f"{__name__}.{name}"))
