# SPDX-License-Identifier: Apache-2.0
"""An operator got ``ok`` from the doctor while a second mint was dead or fenced, and while a service did not run.

It asked the issuer's address alone, where the proxy skips such a mint, and took verifiers that were silent for ended.

ARx: each mint registers its address in the database, and the doctor asks each; it compares the enrolled services with
the verifiers that the store knows.  ``tests/topologies/test_doctor_fleet.py`` has the other faults of a fleet.
"""

from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.settings.realm import Realm
from tests.cli.live import Live, live_realm
from tests.servers import free_ports

pytestmark = pytest.mark.servers


def wrong(live: Live) -> tuple[int, dict[str, tuple[bool | None, str]]]:
    """Return the doctor's exit code, and each check that is not in order."""
    code, output, _ = live.run("doctor")
    return code, {check["name"]: (check["ok"], check["found"]) for check in output["checks"] if not check["ok"]}


@pytest.mark.slow
def test_a_mint_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """A mint that has shown a sign of life and does not answer is unknown; a service that never ran is, too."""
    port, gone = free_ports(2)
    with live_realm(tmp_path / "realm", port) as live:
        live.until(lambda: wrong(live) == (exit_codes.OK, {}))
        with MintDatabase(Realm.open(live.folder).database_url) as db:
            (running,) = db.mints.list()
            assert running.address == f"http://127.0.0.1:{port}"
            db.mints.show(f"http://127.0.0.1:{gone}", running.version, running.issuer)
        live.ok("service", "enrol", "orders", "--out", tmp_path / "orders.json")
        code, found = wrong(live)
        assert code == exit_codes.INCOMPLETE
        assert set(found) == {f"mint at 127.0.0.1:{gone}", "service orders"}
        ok, text = found[f"mint at 127.0.0.1:{gone}"]
        assert ok is None
        assert "not reachable from this machine" in text
        assert found["service orders"] == (None, "the store has seen no verifier of it within 10 minutes")
