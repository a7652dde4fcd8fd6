# SPDX-License-Identifier: Apache-2.0
"""*Keys*: root keys, the keys that sign access tokens, and the keys of agents, operators and services."""

from typing import Final

from starlette.responses import Response

from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.identity.keys import list_holder_keys, list_root_keys
from arx_caps.mint.api.routes.identity.signing_keys import list_signing_keys

SHOWN: Final = 100


def show_keys(visit: Visit) -> Response:
    """Show every key: its state, when it was made, and when it was last used."""
    return visit.render(
        "keys.html",
        title="Keys",
        command="arx key list; arx key signing; arx key holders",
        roots=visit.call(list_root_keys).keys,
        signing=visit.call(list_signing_keys).keys,
        holders=visit.call(list_holder_keys, query={"limit": SHOWN, "after": visit.query.get("after")}),
    )


PAGES: Final = (Page("GET", "/console/keys", show_keys),)
