# SPDX-License-Identifier: Apache-2.0
"""When all mints were dead, nothing outside the realm noticed: no signal came that could stop."""

from pathlib import Path

import pytest

from arx_caps.cli.commands.doctor import notifications
from arx_caps.embedded import EmbeddedValkey
from tests.mint.harness import open_live
from tests.mint.receiver import ReceiverProcess
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 7.5")]


def test_a_heartbeat_stops_with_the_mint(
    tmp_path: Path, realm_name: str, valkey: EmbeddedValkey, receiver: ReceiverProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver outside gets one each second while the mint runs; after two intervals the doctor reports the last."""
    monkeypatch.setattr(notifications, "SLACK_MS", 500)
    settings = f'webhook_hosts = ["{receiver.netloc}"]\n'
    with open_live(tmp_path / "realm", valkey.url, name=realm_name, settings=settings) as harness:
        body = {"url": receiver.url("/204"), "heartbeat_ms": 1000, "format": "get"}
        assert harness.operator().call("POST", "/v1/webhooks", body).status_code == 201
        until(lambda: len(receiver.at("/204")) >= 2)
    count = len(receiver.at("/204"))
    until(lambda: not next(notifications.check_notifications(harness.realm)).ok)
    assert len(receiver.at("/204")) == count
    assert "the last heartbeat was taken" in next(notifications.check_notifications(harness.realm)).found
