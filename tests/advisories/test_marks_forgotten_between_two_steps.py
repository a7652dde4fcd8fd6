# SPDX-License-Identifier: Apache-2.0
"""A call that marks are about could end with a ``KeyError`` while another thread used a token of many tools.

The rows of a tool are kept for 64 tools of a token, and the next one clears them: here between a test and a read.
"""

from typing import Any

import pytest

from arx_verifier import Rule
from arx_verifier.clock import now_ms
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.verification.marks import MarkRows

pytestmark = pytest.mark.spec("21.4")

ROWS = {"marks": [["call", "untrusted", "session", ["web.*"]]], "after": [[["untrusted"], ["mail.send"]]]}


class Crowded(dict[str, Any]):
    """What is kept by tool, which another thread clears after each test of a name."""

    def __contains__(self, tool: object) -> bool:
        found = super().__contains__(tool)
        self.clear()
        return found


def test_a_call_is_judged_while_another_one_clears_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sets its mark, and the next call is refused by it."""
    begin = MarkRows.__init__

    def crowded(rows: MarkRows, *args: Any) -> None:
        begin(rows, *args)
        rows._by_tool = Crowded()

    monkeypatch.setattr(MarkRows, "__init__", crowded)
    realm = UnsafeTestRealm("desk")
    agent = realm.caller(Rule(tool="web.get"), Rule(tool="mail.send"), marks=ROWS)
    answers = [
        realm.verifier.decide(agent.token(tool), AccessRequest(tool, {}, now_ms())).code
        for tool in ("web.get", "web.get", "mail.send", "mail.send")
    ]
    assert answers == ["ok", "ok", "after_mark", "after_mark"]
