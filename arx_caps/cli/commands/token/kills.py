# SPDX-License-Identifier: Apache-2.0
"""What a store knows of kills and freezes, read once, for an explanation.  SPEC 10.

It is no verifier's view: it takes no lease and joins no registry, or a kill would wait for it to confirm.
"""

import os

from arx_caps.revocation import RevocationStore
from arx_verifier.errors import StoreError
from arx_verifier.revocation import FOREVER_NS, EpochTable, Lease, is_relay
from arx_verifier.service import ServiceFile
from arx_verifier.token import Identifier, Macaroon


def known_kills(service: ServiceFile, macaroon: Macaroon) -> tuple[EpochTable, str | None]:
    """Read the store's kills and freezes.

    Args:
        service: Names the store.
        macaroon: The token to explain; where the store cannot be asked, its own birth is believed.

    Returns:
        A view to verify with, and a note on what it leaves out, or None.
    """
    table, because = EpochTable(), "the service file names no store"
    if service.store is not None and is_relay(service.store):
        because = "the service follows a relay, which answers followers only"
    elif service.store is not None:
        store = RevocationStore(
            service.store, service.realm, password=os.environ.get("ARX_STORE_PASSWORD"), ca=service.ca
        )
        try:
            header = store.header()
            table.adopt(header.incarnation, header.seq, store.kills(), store.freezes())
        except StoreError as error:
            because = str(error)
        else:
            table.renew(header.incarnation, header.seq, Lease(FOREVER_NS, FOREVER_NS, FOREVER_NS))
            return table, None
    identifier = macaroon.unverified_identifier
    incarnation, born = identifier.born if isinstance(identifier, Identifier) else ("", 0)
    table = EpochTable()
    table.adopt(incarnation, born, {}, {})
    table.renew(incarnation, born, Lease(FOREVER_NS, FOREVER_NS, FOREVER_NS))
    return table, f"kills and freezes are not checked: {because}"
