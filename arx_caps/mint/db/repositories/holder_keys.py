# SPDX-License-Identifier: Apache-2.0
"""Enrol a key for a holder, inside whatever transaction makes the holder.

A key belongs to one holder, so who signs is never ambiguous.
"""

from sqlalchemy import insert
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from arx_caps.keyfile import PublicKey
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.tables import HOLDER_KEYS
from arx_verifier.errors import GrantError


def add_key(c: Connection, holder: str, key: PublicKey) -> None:
    """Enrol a key.

    Raises:
        GrantError: ``key_enrolled``: somebody has this key already.
    """
    try:
        with c.begin_nested():
            c.execute(insert(HOLDER_KEYS).values(kid=key.kid, holder=holder, x=key.x, added_at=now_ms()))
    except IntegrityError:
        raise GrantError("this key is enrolled already; make a fresh one", code="key_enrolled") from None
