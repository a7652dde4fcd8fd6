# SPDX-License-Identifier: Apache-2.0
"""A tool service with a key of its own, against a realm that runs: its keys come, stay fresh, outlive the mint."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from arx_caps.service import KeyRefresher
from arx_verifier.errors import SettingsError, StoreError
from arx_verifier.service import open_verifier
from tests.cli.live import AGENT, Live, call, live_realm
from tests.servers import free_ports, until

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_realm(tmp_path_factory.mktemp("services") / "realm", *free_ports(1)) as realm:
        yield realm


def joined(up: Live, folder: Path, audience: str = "orders") -> tuple[Path, Path]:
    """Invite a service and enrol as it."""
    invitation, file, key = (folder / f"{audience}{end}" for end in (".invite", ".json", ".key"))
    up.ok("service", "invite", audience, "--out", invitation)
    up.ok("service", "enrol", "--invitation", invitation, "--out", file, "--key-out", key)
    return file, key


@pytest.mark.slow
@pytest.mark.spec("CONTROL 3.2")
def test_a_service_joins_and_outlives_the_mint(up: Live, tmp_path: Path) -> None:
    """Invited, joined, running; with the mint dead it starts and decides; lost keys come back with the mint."""
    file, key = joined(up, tmp_path)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, key)] == [0o600, 0o600]
    again = ("service", "enrol", "--invitation", tmp_path / "orders.invite")
    code, output, _ = up.run(*again, "--out", tmp_path / "x", "--key-out", tmp_path / "y")
    assert (code, output["code"]) == (exit_codes.DENIED, "bad_enrolment")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()
    # A service that lost the answer, or the file, tries again with the key that it has.
    second = tmp_path / "again.json"
    up.ok(*again, "--out", second, "--key-out", key)
    assert json.loads(second.read_text())["keys"] == json.loads(file.read_text())["keys"]
    up.ok("agent", "enrol", AGENT, "--key-out", tmp_path / "agent.key")
    up.ok("session", "open", "--key", tmp_path / "agent.key", "--out", tmp_path / "session")
    up.ok(
        "task",
        "start",
        "lookup",
        "--param",
        "order_id=o-1",
        "--session",
        tmp_path / "session",
        "--out",
        tmp_path / "task",
    )
    with_other_keys = json.loads(file.read_text()) | {"keys": {"k9.9": "A" * 43}}
    file.write_text(json.dumps(with_other_keys))
    up.kill_mint()
    verifier = open_verifier(second)
    refresher = KeyRefresher(file, verifier.keys)
    try:
        verifier.start()
        assert call(verifier, tmp_path / "task", "orders.get", order_id="o-1").allowed
        with pytest.raises(StoreError, match="does not answer"):
            refresher.refresh()
        refresher.start()
        until(lambda: refresher.status.error)
        assert call(verifier, tmp_path / "task", "orders.get", order_id="o-1").allowed
        up.revive()
        until(lambda: refresher.status.refreshed_at)
        assert json.loads(file.read_text())["keys"] == json.loads(second.read_text())["keys"]
        assert call(verifier, tmp_path / "task", "orders.get", order_id="o-1").allowed
    finally:
        refresher.close()
        verifier.close()


@pytest.mark.slow
@pytest.mark.spec("CONTROL 3.3")
def test_an_own_key_that_is_taken_away(up: Live, tmp_path: Path) -> None:
    """Its holder gets no more keys and goes on with what it has; the error for a file without an own key has a hint."""
    file, _ = joined(up, tmp_path, "reports")
    before = file.read_text()
    [own] = up.ok("service", "show", "reports")["service"]["keys"]
    assert up.ok("ship", file, "--once")["keys"] == list(json.loads(before)["keys"])
    up.ok("service", "remove-key", "reports", own["kid"], "--yes")
    code, output, _ = up.run("ship", file, "--once")
    assert (code, output["code"]) == (exit_codes.DENIED, "bad_proof")
    assert file.read_text() == before
    up.ok("service", "enrol", "payments", "--out", tmp_path / "payments.json")
    for words in (("service", "invite", "paymnets"), ("service", "enrol", "paymnets", "--out", tmp_path / "slip.json")):
        code, _, err = up.run(*words)
        assert (code, "[audience.paymnets]" in err) == (exit_codes.OK, True), words
    keyless = tmp_path / "keyless.json"
    keyless.touch(mode=0o600)
    content = json.loads((tmp_path / "payments.json").read_text())
    keyless.write_text(json.dumps({name: content[name] for name in content if name != "key_file"}))
    with pytest.raises(SettingsError, match="arx service enrol"):
        KeyRefresher(keyless)
    assert {"payments", "reports"} <= {row["audience"] for row in up.ok("service", "list")["services"]}
