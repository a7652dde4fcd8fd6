# SPDX-License-Identifier: Apache-2.0
"""``arx doctor`` on people's accounts: what is unclear, unused, or of an issuer of before."""

from dataclasses import replace

import msgspec
import pytest
from sqlalchemy import update

from arx_caps.cli.commands.doctor.login import IDLE_MS, check_connections
from arx_caps.mint.db.tables import CONNECTIONS
from arx_verifier.clock import now_ms
from tests.mint.test_connections import ANN, BOB, Accounts, accounts

__all__ = ["accounts"]
pytestmark = pytest.mark.spec("CONTROL 9.1")


def found(accounts: Accounts) -> list[tuple[bool | None, str, bool]]:
    return [(check.ok, check.found, bool(check.mend)) for check in check_connections(accounts.mint.realm)]


def test_doctor_counts_connections(accounts: Accounts) -> None:
    """By what an operator can do; a realm without connections has no such check."""
    assert found(accounts) == [(True, "tracker: 0 open", False)]
    first, second = accounts.add(ANN, "ann-t"), accounts.add(BOB, "bob-t")
    assert found(accounts) == [(True, "tracker: 2 open", False)]
    db = accounts.mint.db
    assert db.connections.lock(first.id, "own", now_ms() + 60_000)
    assert found(accounts) == [(True, "tracker: 2 open", False)]
    db.connections.unlock(first.id, "own", is_clear=False)
    [(ok, text, mends)] = found(accounts)
    assert (ok, text.partition(":")[2].partition(":")[0], mends) == (True, " 2 open, 1 unclear", False)
    with db.write() as c:
        c.execute(update(CONNECTIONS).where(CONNECTIONS.c.id == first.id).values(refresher=None))
        c.execute(update(CONNECTIONS).values(created_at=now_ms() - IDLE_MS - 1000))
    db.connections.note_used(second.id)
    assert found(accounts) == [(True, "tracker: 2 open, 1 without a call for 30d", True)]
    terms = accounts.mint.realm.connection
    via = msgspec.structs.replace(terms["tracker"], mode="exchange", through="tracker", upstream="u")
    accounts.mint.realm = replace(accounts.mint.realm, connection={**terms, "board": via})
    assert found(accounts)[0] == (True, "board: through tracker", False)
    accounts.mint.realm = replace(accounts.mint.realm, connection={})
    [(ok, text, mends)] = found(accounts)
    assert (ok, text.startswith("tracker: 0 open, 2 of an issuer that realm.toml does not name"), mends) == (
        True,
        True,
        True,
    )


def test_doctor_reads_the_secret_that_a_file_has(accounts: Accounts) -> None:
    """One in a variable is of the mint's environment."""
    realm = accounts.mint.realm
    terms = msgspec.structs.replace(realm.connection["tracker"], client_secret="file:tracker.secret")
    accounts.mint.realm = replace(realm, connection={"tracker": terms})
    [(ok, text, mends)] = found(accounts)
    assert (ok, "tracker.secret" in text, mends) == (False, True, True)
    path = realm.folder / "tracker.secret"
    path.write_text("canary")
    path.chmod(0o600)
    assert found(accounts) == [(True, "tracker: 0 open", False)]
