# SPDX-License-Identifier: Apache-2.0
"""The checks of certificates: those of issuer, store, ledger and database that end soon.

Whether they are trusted is found by the checks that connect; here only their last day is read.
"""

import datetime as dt
from collections.abc import Iterator
from typing import Final

from arx_caps.cli.access.place import store_url
from arx_caps.cli.commands.doctor.check import Check
from arx_caps.http.certificates import CertifiedPlace
from arx_caps.settings.realm import Realm
from arx_verifier.errors import ArxError

NAME: Final = "certificates"
SOON: Final = dt.timedelta(days=14)


def check_certificates(issuer: str, store: str | None, realm: Realm) -> Iterator[Check]:
    """Check when the certificates of a realm's servers end; yield nothing where none has TLS.

    Args:
        issuer: The address at which callers reach the mints.
        store: The store's URL; None for that of the realm's folder.
        realm: The realm.
    """
    ends, now = {}, dt.datetime.now(dt.UTC)
    for endpoint in dict.fromkeys(_endpoints(issuer, store, realm)):
        try:
            end = endpoint.read_end()
        except (OSError, ValueError):
            continue  # another check reports a server that does not answer
        if end is not None:
            ends[endpoint] = end
    for endpoint, end in ends.items():
        if end < now + SOON:
            days = (end - now).days
            when = f"ends in {days} days" if end > now else "has expired"
            mend = "renew it, and have that server load the new one: with an expired one no caller connects"
            yield Check(NAME, False, f"the certificate of the {endpoint.named} {when} ({end:%Y-%m-%d})", mend)
    if ends and min(ends.values()) >= now + SOON:
        first = min(ends, key=lambda endpoint: ends[endpoint])
        yield Check(NAME, True, f"{len(ends)}; the first to end is that of the {first.named}: {ends[first]:%Y-%m-%d}")


def _endpoints(issuer: str, store: str | None, realm: Realm) -> Iterator[CertifiedPlace]:
    yield from CertifiedPlace.of_url("issuer", issuer)
    try:
        named = {"store": store or store_url(realm), "ledger": realm.ledger}
    except ArxError:
        named = {}
    for what, url in (named | {"database": realm.database}).items():
        yield from CertifiedPlace.of_url(what, url)
