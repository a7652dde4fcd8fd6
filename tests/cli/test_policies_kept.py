# SPDX-License-Identifier: Apache-2.0
"""Whatever policy a decision or an event names can be shown, long after it was replaced, and over a restart."""

from pathlib import Path
from typing import Any

import pytest

from arx_caps.mint.policy.model import Policy
from arx_verifier.service import open_verifier
from tests.cli.live import AGENT, Live, call, live_realm
from tests.mint.events import events_of
from tests.servers import free_ports

pytestmark = pytest.mark.servers
CHANGES = ("8h", "7h", "6h")  # how long a session may live


def named(found: Any) -> set[str]:
    """Every digest of a policy in an answer, however deep."""
    if isinstance(found, list):
        return set().union(*map(named, found))
    if not isinstance(found, dict):
        return set()
    own = {value for name, value in found.items() if name in ("policy", "before") and isinstance(value, str) and value}
    return own.union(*map(named, found.values()))


def work(live: Live, folder: Path, number: int) -> None:
    """A session, a task and a call under the policy that is in force."""
    files = [folder / f"{name}-{number}" for name in ("session", "task")]
    live.ok("session", "open", "--key", folder / "agent.key", "--out", files[0])
    live.ok("task", "start", "lookup", "--param", "order_id=o-1", "--session", files[0], "--out", files[1])
    verifier = open_verifier(folder / "orders.json")
    verifier.start()
    try:
        live.until(lambda: call(verifier, files[1], "orders.get", order_id="o-1").allowed)
    finally:
        verifier.close()


@pytest.mark.nightly
def test_every_policy_that_is_named_is_shown(tmp_path: Path) -> None:
    """
    In force from the beginning, loaded over the API, and read out of the file at the next start.
    """
    folder, (port,) = tmp_path / "realm", free_ports(1)
    with live_realm(folder, port) as live:
        live.ok("agent", "enrol", AGENT, "--key-out", tmp_path / "agent.key")
        live.ok("service", "enrol", "orders", "--out", tmp_path / "orders.json")
        work(live, tmp_path, 0)
        text = (folder / "policy.toml").read_text()
        (tmp_path / "next.toml").write_text(text.replace(CHANGES[0], CHANGES[1]))
        live.ok("policy", "load", tmp_path / "next.toml")
        work(live, tmp_path, 1)
    (folder / "policy.toml").write_text(text.replace(CHANGES[0], CHANGES[2]))
    with live_realm(folder, port) as live:
        work(live, tmp_path, 2)
        digests = {Policy.parse(text.replace(CHANGES[0], change), "policy").digest for change in CHANGES}
        decided = named(live.ok("decisions")["decisions"])
        assert decided >= digests
        for digest in decided | named(events_of(live.folder)):
            shown = live.ok("policy", "show", digest)
            assert Policy.parse(shown["policy"], "shown").digest == shown["digest"] == digest


@pytest.mark.slow
def test_a_policy_that_grants_nothing_needs_a_yes(tmp_path: Path) -> None:
    """An empty file by mistake takes nothing away; with a yes it does, and the one before can still be had."""
    folder, (port,) = tmp_path / "realm", free_ports(1)
    with live_realm(folder, port) as live:
        before, empty = (folder / "policy.toml").read_text(), tmp_path / "empty.toml"
        empty.write_text("")
        code, _, output = live.run("policy", "load", empty)
        assert code != 0
        assert "--yes" in output
        assert (folder / "policy.toml").read_text() == before
        digest = live.ok("policy", "load", empty, "--yes")["before"]
        assert (folder / "policy.toml").read_text() == ""
        assert live.ok("policy", "show", digest)["policy"] == before
