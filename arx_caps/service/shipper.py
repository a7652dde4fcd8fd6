# SPDX-License-Identifier: Apache-2.0
"""Open the shipper of a service from its service file; ``audit.shipping`` sends the records.  LOG 2."""

import os
from pathlib import Path
from typing import Any

import httpx

from arx_caps.audit.shipping.shipper import Shipper
from arx_caps.service.own_key import read_own_key
from arx_verifier.errors import SettingsError


def open_shipper(
    path: str | os.PathLike[str], *, keep_ms: int = 0, yields: bool = False, client: httpx.Client | None = None
) -> Shipper:
    """Return the shipper of a service file; ``start`` it, and ``close`` it when the service stops.

    It reads the files that the service's verifiers write: of several shippers of a journal one works at a time.

    Args:
        path: The service file, which names the mint and the service's own key.
        keep_ms: How long a file stays after its records were sent, ms since its last write.
        yields: Whether it gives way to a shipper that does not, such as `arx ship`.
        client: The HTTP client; the shipper opens its own when omitted.

    Raises:
        SettingsError: The file names no journal, issuer or key, or one that is unusable.
    """
    own = read_own_key(Path(path))
    if own.file.journal is None:
        raise SettingsError(f"{path} names no `journal`: there is nothing to ship")
    about: dict[str, Any] = {"audience": own.file.audience, "realm": own.file.realm, "issuer": own.issuer, "ca": own.ca}
    return Shipper(Path(own.file.journal), key=own.key, keep_ms=keep_ms, yields=yields, client=client, **about)
