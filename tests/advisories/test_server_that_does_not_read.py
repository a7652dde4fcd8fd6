# SPDX-License-Identifier: Apache-2.0
"""Calls to a server over stdio that did not read had no timeout, and each one more filled the gateway's memory.

A call that had timed out waited to write its cancellation behind them.  A child that had left the server's group, and
held its pipe open, kept the end of a session, of a reload and of the gateway waiting.
"""

import sys
from pathlib import Path

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.served_door import call_tool, open_door

pytestmark = pytest.mark.servers
DEAF = "import time; time.sleep(3600)"
# Answers one call, and leaves a child that holds the pipe open.
LEAVER = """
import json, os, sys, time
for line in sys.stdin:
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
        os._exit(0)
    message = {"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": {"content": []}}
    print(json.dumps(message), flush=True)
"""
LONG = "x" * 900_000  # more than a pipe and its buffer take


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not end by itself is killed soon."""
    monkeypatch.setattr("arx_caps.gateway.upstream.stdio_process._STOP_S", 0.3)


def test_a_call_has_a_timeout_until_it_is_read(tmp_path: Path) -> None:
    """The process is ended, and the next call starts another one."""
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(Rule(tool="orders.get", open=True))
    with open_door(realm, tmp_path, command=[sys.executable, "-c", DEAF], isolation="none", timeout=300) as url:
        for _ in range(2):
            answer = call_tool(url, caller, "get", text=LONG)
            while "has ended" in answer.text:  # the process of the call before, which was not yet replaced
                answer = call_tool(url, caller, "get", text=LONG)
            assert (answer.status_code, "did not read in time" in answer.text) == (504, True)


def test_a_child_that_holds_the_pipe(tmp_path: Path) -> None:
    """The gateway ends without it."""
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(Rule(tool="orders.get"))
    with open_door(realm, tmp_path, command=[sys.executable, "-c", LEAVER], isolation="none") as url:
        assert call_tool(url, caller, "get").status_code == 200
