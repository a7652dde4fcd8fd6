# SPDX-License-Identifier: Apache-2.0
"""``arx health``: 0 while a mint is ready, 1 while it is not, and when it has ended."""

import os
import signal
from pathlib import Path

import pytest
import redis

from arx_caps.cli import exit_codes
from tests.cli.helpers import arx
from tests.cli.live import live_realm
from tests.servers import free_ports, listens

pytestmark = pytest.mark.servers


@pytest.mark.slow
def test_a_mint_that_loses_its_store_is_not_ready(tmp_path: Path) -> None:
    """
    It says why; with the store it is ready again, and without a process there is no answer.
    """
    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    with live_realm(tmp_path / "realm", port) as live:
        live.until(lambda: live.run("health", url)[0] == exit_codes.OK)
        assert arx("health", url).out == f"{url} is ready\n"
        with redis.Redis.from_url(live.ready["store"]) as raw:
            valkey = raw.info("server")["process_id"]
        os.kill(valkey, signal.SIGSTOP)
        try:
            live.until(lambda: live.run("health", url)[0] == exit_codes.DENIED)
            _, output, _ = live.run("health", url)
            assert (output["ready"], output["status"]) == (False, 503)
            assert output["why"]
        finally:
            os.kill(valkey, signal.SIGCONT)
        live.until(lambda: live.run("health", url)[0] == exit_codes.OK)
    assert not listens(port)
    exit_code, output = (done := arx("health", url, "--json")).exit_code, done.json
    assert (exit_code, output["ready"], output["status"]) == (exit_codes.DENIED, False, None)


@pytest.mark.parametrize("url", ["127.0.0.1:8700", "http://user:secret@127.0.0.1", "file:///etc/passwd"])
def test_only_a_url_without_a_login_is_asked(url: str) -> None:
    """
    Another address is a mistake of the command line, and is not quoted.
    """
    done = arx("health", url)
    assert (done.exit_code, "secret" in done.err) == (exit_codes.USAGE, False)
