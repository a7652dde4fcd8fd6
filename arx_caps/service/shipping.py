# SPDX-License-Identifier: Apache-2.0
"""Ship the records of a service as its service file says: in it, or beside it with ``arx ship``.  SPEC 18."""

import os
from pathlib import Path
from typing import Any

import httpx

from arx_caps.audit.ship import Shipper
from arx_caps.service.own_key import read_own_key
from arx_verifier.errors import SettingsError


def open_shipper(path: str | os.PathLike[str], *, keep_ms: int = 0, client: httpx.Client | None = None) -> Shipper:
    """Make the shipper of a service file; ``start`` it, and ``close`` it when the service stops.

    It reads the files that the service's verifiers write, so one shipper is enough for all processes of a service, and
    none of them waits for it.

    Args:
        path: The service file; it names the mint and the service's own key.
        keep_ms: How long a file stays after its records were sent, ms since it was last written.
        client: Sends; a client of its own when left out.

    Raises:
        SettingsError: The file names no journal, issuer or key, or one that cannot be used.
    """
    own = read_own_key(Path(path))
    if own.file.journal is None:
        raise SettingsError(f"{path} names no `journal`: there is nothing to ship")
    about: dict[str, Any] = {"audience": own.file.audience, "realm": own.file.realm, "issuer": own.issuer, "ca": own.ca}
    return Shipper(Path(own.file.journal), key=own.key, keep_ms=keep_ms, client=client, **about)
