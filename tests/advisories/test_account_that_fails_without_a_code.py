# SPDX-License-Identifier: Apache-2.0
"""A call whose person's account could not be opened was an error of the mint (500), without a code or a link.

An account whose row was moved, or whose client's secret could not be read, stayed so until an operator found it.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.gateway.people import CONNECTION, SECRET, people
from tests.gateway.test_people import asked

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 9.1", "CONTROL 9.3")]


def test_an_account_that_does_not_open_has_a_code(tmp_path: Path) -> None:
    """The person of a moved row is asked again; a secret that cannot be read is a wait, and uses up no token."""
    secret = tmp_path / "tracker.secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    with people(tmp_path, connection=CONNECTION.replace("env:ARX_TEST_TRACKER_SECRET", f"file:{secret}")) as world:
        with world.task("ann") as task, world.client(task) as client:
            assert "Connected" in world.connect(asked(client).json()["connect_url"], "ann", "ann-t").text
            secret.rename(tmp_path / "away")
            silent = asked(client)  # of fewer scopes than the token of the consent
            assert (silent.status_code, silent.json()["code"]) == (503, "connection_unavailable"), silent.text
            assert world.tracker.refreshes == 0
            (tmp_path / "away").rename(secret)
            assert asked(client).json()["sub"] == "ann-t"
        with closing(sqlite3.connect(tmp_path / "realm" / "mint.db")) as database, database:
            database.execute("UPDATE connections SET account = 'bob-t'")
        with world.task("ann") as task, world.client(task) as client:
            moved = asked(client)
            assert (moved.status_code, moved.json()["code"]) == (403, "connection_ended"), moved.text
            assert "Connected" in world.connect(moved.json()["connect_url"], "ann", "ann-t").text
            assert asked(client).json()["sub"] == "ann-t"
        assert "Traceback" not in world.log()
