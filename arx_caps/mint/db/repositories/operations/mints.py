# SPDX-License-Identifier: Apache-2.0
"""The mints of a realm that share this database, with address, version and last sign of life; and their issuer."""

import hashlib
from typing import Final

import msgspec
from sqlalchemy import delete, insert, select, update

from arx_caps.mint.db.database import Repository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import META
from arx_verifier.clock import now_ms

FORGOTTEN_MS: Final = 3_600_000  # after its last sign of life, a mint that was not stopped in order
_ISSUER: Final = "issuer"  # the name of the issuer's row in META
_ITS: Final = META.c.name == _ISSUER
_ROWS: Final = "mint/"  # what the names of its rows in META begin with


class MintSeen(msgspec.Struct, frozen=True):
    """A mint that runs, or was not stopped in order.

    Attributes:
        address: URL at which it listens itself, past a proxy.
        version: Its version of ARx.
        issuer: The issuer of its settings.
        at: Its last sign of life by its own clock, ms since the Unix epoch.
    """

    address: str
    version: str
    issuer: str
    at: int


class MintRepository(Repository):
    """The mints of the realm whose database this is."""

    def list(self) -> list[MintSeen]:
        """Return the mints by address."""
        found = map(_read, self._database.column(select(META.c.value).where(META.c.name.startswith(_ROWS))))
        return sorted((mint for mint in found if mint is not None), key=lambda mint: mint.address)

    def show(self, address: str, version: str, issuer: str) -> None:
        """Store a sign of life of a mint, and delete mints without one for ``FORGOTTEN_MS``.

        Args:
            address: URL at which it listens itself.
            version: Its version of ARx.
            issuer: The issuer of its settings.
        """
        seen = MintSeen(address, version, issuer, now_ms())
        old = [mint.address for mint in self.list() if mint.at < seen.at - FORGOTTEN_MS]
        with self._database.write() as c:
            c.execute(delete(META).where(META.c.name.in_([_row_name(one) for one in (*old, address)])))
            c.execute(insert(META).values(name=_row_name(address), value=msgspec.json.encode(seen).decode()))

    def forget(self, address: str) -> None:
        """Delete a mint, which stops.

        Args:
            address: URL at which it listened.
        """
        self._database.change(delete(META).where(META.c.name == _row_name(address)), {})


def _row_name(address: str) -> str:
    return _ROWS + hashlib.sha256(address.encode()).hexdigest()[:24]


def _read(value: str) -> MintSeen | None:
    try:
        return msgspec.json.decode(value, type=MintSeen)
    except msgspec.DecodeError:  # of another version
        return None


class IssuerRepository(Repository):
    """The issuer of the realm whose database this is."""

    def find(self) -> str | None:
        """Return the issuer; None before the first mint."""
        issuer: str | None = self._database.scalar(select(META.c.value).where(_ITS))
        return issuer

    def begin(self, issuer: str) -> None:
        """Store the issuer of the first mint.

        Raises:
            GrantError: ``conflict``: another mint was first.
        """
        self._database.change(insert(META), {"name": _ISSUER, "value": issuer})

    def change(self, before: str, issuer: str, what: Event) -> bool:
        """Store another issuer; return False if another mint has changed it since.

        Args:
            before: The issuer that was read.
            issuer: The new one.
            what: The event.
        """
        return self._database.change_once(update(META).where(_ITS, META.c.value == before), {"value": issuer}, what)
