# SPDX-License-Identifier: Apache-2.0
"""docs/first-day.md: its steps, on a real application."""

import runpy
from pathlib import Path

from starlette.testclient import TestClient

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.house.pages import ROOT, blocks

PAGE = (ROOT / "docs" / "first-day.md").read_text("utf-8")


def test_a_service_in_watch_mode_answers_as_before(tmp_path: Path) -> None:
    """
    Each call goes on, with its own credentials, and says why an enforcing guard would refuse it.
    """
    (block,) = [block for block in blocks(PAGE) if "`main.py`" in block.before]
    (tmp_path / "main.py").write_text(block.text, "utf-8")
    realm = UnsafeTestRealm("orders")
    agent = realm.caller(Rule(tool="orders.get", args={"order_id": "o-1"}))
    with TestClient(runpy.run_path(str(tmp_path / "main.py"))["make_app"](realm.verifier)) as client:
        assert client.get("/orders/o-1", auth=agent).json() == {"order": "o-1", "would_refuse": None}
        assert client.get("/orders/o-2", auth=agent).json()["would_refuse"] == "argument_not_allowed"
        assert client.get("/orders/o-2", headers={"authorization": "Bearer own"}).json()["would_refuse"] == "malformed"
        realm.epochs.kill("session:s-test")
        assert client.get("/orders/o-1", auth=agent).json()["code"] == "revoked"
    recorded = [each.arguments for each in realm.decisions.decisions]
    assert recorded == [b'{"order_id":"%s"}' % order for order in (b"o-1", b"o-2", b"o-2", b"o-1")]
