# SPDX-License-Identifier: Apache-2.0
"""Check that the receivers of notifications take them.  CONTROL 7."""

from collections.abc import Iterator
from typing import Final

from arx_caps.cli.commands.doctor.check import Check
from arx_caps.realm import Realm
from arx_verifier.errors import ArxError

NAME: Final = "notifications"


def check_notifications(realm: Realm) -> Iterator[Check]:
    """Check each receiver, as the mint's database has it; yield nothing without a receiver.

    Args:
        realm: The realm.
    """
    from arx_caps.mint.db.mint_database import MintDatabase

    if realm.database is None and not realm.database_path.exists():
        return  # another check reports it
    try:
        with MintDatabase(realm.database_url) as db:
            receivers = db.webhooks.list()
    except ArxError:
        return  # another check reports it
    for one in receivers:
        name = f"{one['id']} at {one['origin']}"
        if one["ended_at"] is not None:
            mend = f"add it again, or remove it: `arx webhook remove {one['id']}`"
            yield Check(NAME, False, f"{name} has answered that it is gone", mend)
        elif one["failed"]:
            found = f"{name} has not taken {one['failed']} within a day: {one['error'] or 'it takes them again'}"
            yield Check(NAME, False, found, "repair the receiver, then run `arx webhook resend --all`")
        else:
            late = f", {one['waiting']} waiting: {one['error']}" if one["error"] else ""
            yield Check(NAME, True, name + late)
