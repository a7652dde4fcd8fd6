# SPDX-License-Identifier: Apache-2.0
"""Whether a mint runs on this host, for commands that change a realm at rest."""

from typing import Final

import httpx

from arx_caps.cli.exit_codes import Stop
from arx_caps.http.client import open_client
from arx_caps.settings.realm import Realm

TIMEOUT_S: Final = 2.0


def require_silence(realm: Realm) -> None:
    """Raise if a server answers at this realm's address; mints on other hosts cannot be checked from here.

    Raises:
        Stop: A server answers, which may be the mint.
    """
    try:
        with open_client("http:", timeout=TIMEOUT_S) as client:
            client.get(f"{realm.local_url}/healthz")
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return
    except httpx.HTTPError:
        pass  # a server accepted the connection
    hint = "stop the mint on every host, and any other server at this address until this command has ended"
    raise Stop(f"nothing was changed: a server answers at {realm.listen}", hint=hint)
