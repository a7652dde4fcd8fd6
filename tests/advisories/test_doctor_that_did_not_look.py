# SPDX-License-Identifier: Apache-2.0
"""An operator got ``ok`` from ``arx doctor`` for checks that it had not made.

It ended with a ``KeyError`` once a person was erased whom a kill had named, took any realm's mint at the issuer's
address for its own, and printed ``ok`` for what the store did not let its user ask.

ARx: erased events are left out of the comparison; a mint has to answer as this realm's, by name, issuer and log key;
what could not be looked at is unknown, and the command then exits with 3.
"""

import shutil
from pathlib import Path

import pytest
import redis

from arx_caps.cli import exit_codes
from arx_caps.revocation import acl
from arx_verifier.token.targets import subject_target
from tests.cli.helpers import arx
from tests.cli.live import live_realm

pytestmark = pytest.mark.servers


def checks(output: dict[str, list[dict[str, object]]]) -> dict[str, tuple[object, str]]:
    """What the doctor found, by name."""
    return {str(check["name"]): (check["ok"], str(check["found"])) for check in output["checks"]}


@pytest.mark.slow
def test_it_survives_the_erasure_of_a_person(tmp_path: Path, free_port: int) -> None:
    """A person is killed, erased as docs/audit.md says, and the record is compared all the same."""
    ann = subject_target("https://idp.example", "ann")
    with live_realm(tmp_path / "realm", free_port) as live:
        for target in (ann, "agent:acme/support"):
            live.run("kill", target, "--reason", "a test", "--yes", "--no-wait")
        live.ok("audit", "erase", "--subject", ann, "--reason", "asked to", "--yes")
        code, output, _ = live.run("doctor")
        assert checks(output)["record"] == (True, "1 entries match the mint's events")
        assert code == exit_codes.OK


@pytest.mark.slow
def test_another_realms_mint_is_not_taken_for_its_own(tmp_path: Path, free_port: int) -> None:
    """At the issuer's address answers a mint of another name, and then one of the same name that was made elsewhere."""
    issuer = f"http://127.0.0.1:{free_port}"
    for name, found in (
        ("other", "answers as the mint of the realm other"),
        ("acme", "answers as the mint of another realm acme: its log has another key"),
    ):
        folder = tmp_path / name / "realm"
        folder.parent.mkdir()
        arx("init", "--name", name, "--issuer", issuer, env={"ARX_HOME": str(folder)})
        with live_realm(folder, free_port) as live:
            assert checks(live.run("doctor")[1])["mint"][0] is True
            mine = tmp_path / "mine"
            arx("init", "--name", "acme", "--issuer", issuer, env={"ARX_HOME": str(mine)})
            ran = arx("doctor", "--realm-dir", mine, "--json", "--store", str(live.ready["store"]))
            assert checks(ran.json)["mint"] == (False, f"{issuer} {found}")
            assert ran.exit_code == exit_codes.DENIED
            shutil.rmtree(mine)


@pytest.mark.slow
def test_what_it_may_not_ask_is_unknown(tmp_path: Path, free_port: int) -> None:
    """Asked as the mint's user: nothing is wrong, the store's settings are unknown, and a script learns it by a 3."""
    with live_realm(tmp_path / "realm", free_port) as live:
        live.until(lambda: live.run("doctor")[0] == exit_codes.OK)
        store = str(live.ready["store"])
        user, password = acl.user_name("mint", "acme"), "m" * 9
        with redis.Redis.from_url(store) as raw:
            raw.execute_command("ACL", "SETUSER", user, *acl.rules("mint", "acme", password))
        words = ("doctor", "--realm-dir", live.folder, "--store", store.replace("unix://", f"unix://{user}@"))
        ran = arx(*words, "--json", env={"ARX_STORE_PASSWORD": password})
        found = {name: value for name, (ok, value) in checks(ran.json).items() if ok is None}
        assert {"persistence", "eviction", "access"} <= set(found)
        assert set(found.values()) == {"the store's user has no permission for this check"}
        assert all(check["mend"] for check in ran.json["checks"] if check["ok"] is None)
        assert (ran.exit_code, ran.json["ok"]) == (exit_codes.INCOMPLETE, None)
        printed = arx(*words, env={"ARX_STORE_PASSWORD": password})
        assert "unknown persistence: the store's user has no permission" in printed.out
