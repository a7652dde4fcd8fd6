# SPDX-License-Identifier: Apache-2.0
"""A server over stdio could write terminal codes and lines like ARx's own into the gateway's log, or fill it.

Its standard error was the gateway's.
"""

import json
import logging
import re
import sys
from pathlib import Path

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.served_door import call_tool, open_door
from tests.servers import until

pytestmark = pytest.mark.servers
SECRET = "s3cret-of-the-server"
FALSE = "2026-12-01 10:00:00,000 WARNING arx_caps.gateway.serve: reloaded gateway.toml: orders"
# Writes what its `env` says, then many lines, and answers once all are written.
WRITER = """
import json, os, sys
for line in sys.stdin:
    sys.stderr.write(json.loads(os.environ["LINES"]))
    sys.stderr.write(f"key {os.environ['KEY']} is in use\\n")
    for number in range(5000):
        sys.stderr.write(f"line {number}\\n")
    sys.stderr.flush()
    message = {"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": {"content": []}}
    print(json.dumps(message), flush=True)
"""
LINES = f"{FALSE}\nred \x1b[31m, bell \x07, back \r{FALSE}\nleft \u202eright\n{'x' * 50_000}\n\n"


def test_each_line_names_the_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Control characters are escaped, a long line is cut, and lines beyond a hundred in ten seconds are left out."""
    caplog.set_level(logging.INFO)
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_text(SECRET)
    realm = UnsafeTestRealm("orders")
    env = {"LINES": json.dumps(LINES), "KEY": "file:key"}
    terms = {"command": [sys.executable, "-c", WRITER], "isolation": "none", "env": env}
    with open_door(realm, tmp_path, **terms) as url:
        assert call_tool(url, realm.caller(Rule(tool="orders.get")), "get").status_code == 200
        until(lambda: "the rest is left out" in caplog.text)
    lines = [each.getMessage() for each in caplog.records if each.name == "arx_caps.gateway.upstream.stdio_log"]
    assert all(re.match("upstream orders (wrote|writes)", line) for line in lines)
    assert f"upstream orders wrote: {FALSE}" in lines
    for shown, raw in ((r"\x1b[31m", "\x1b"), (r"\x07", "\x07"), (r"\r", "\r"), (r"\u202e", "\u202e")):
        assert any(shown in line for line in lines)
        assert not any(raw in line for line in lines)
    assert f"upstream orders wrote: {'x' * 2000}…" in lines
    assert SECRET not in caplog.text
    assert "upstream orders wrote a line with a secret of its `env`; it is left out" in lines
    assert len(lines) <= 200  # of 5,000, within two times on a slow machine


def test_the_gateway_s_own_standard_error_has_no_line_of_a_server(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing passes it by the log."""
    realm = UnsafeTestRealm("orders")
    terms = {"command": [sys.executable, "-c", WRITER], "isolation": "none", "env": {"LINES": '""', "KEY": "k"}}
    with open_door(realm, tmp_path, **terms) as url:
        assert call_tool(url, realm.caller(Rule(tool="orders.get")), "get").status_code == 200
    assert "line 4999" not in capfd.readouterr().err
