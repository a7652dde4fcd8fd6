# SPDX-License-Identifier: Apache-2.0
"""An operator who sent SIGHUP could stop a mint forever, or raise an error in its server's loop.

The handler itself read the policy and wrote the database.  It runs between any two steps of the server's thread, which
may hold the very lock that is needed: 1,600 hangups beside three clients left calls unanswered and a process that did
not end.  Now a thread of its own reads the policy, and what it raises is logged.
"""

import signal
import sqlite3

import httpx
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.settings.realm import Realm
from tests.mint.test_serve import line_of, mint_process, realm

__all__ = ["realm"]  # a fixture
CALLS = 100  # the signal has come long before the last of them


@pytest.mark.slow
@pytest.mark.servers
def test_the_mint_answers_while_its_policy_is_read_again(realm: Realm, valkey: EmbeddedValkey) -> None:
    """
    Another process writes its database: the new policy waits for that, and no call does.
    """
    policy = realm.policy_path.read_text()
    with mint_process(realm, valkey.url) as process, httpx.Client(base_url=realm.issuer, timeout=60) as client:
        first = line_of(process.stderr)["policy"]
        with sqlite3.connect(realm.database_path, isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            realm.policy_path.write_text(policy.replace('ttl = "8h"', 'ttl = "7h"'))
            process.send_signal(signal.SIGHUP)
            assert [client.get("/healthz").status_code for _ in range(CALLS)] == [200] * CALLS
            other.execute("ROLLBACK")
        other.close()
        output = line_of(process.stderr)
        assert (output["reloaded"], output["policy"] != first) == (True, True)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out + err) == (-signal.SIGTERM, ""), "it ends in order"


@pytest.mark.slow
@pytest.mark.servers
def test_whatever_goes_wrong_ends_no_loop(realm: Realm, valkey: EmbeddedValkey) -> None:
    """
    A policy in whose place a folder stands is refused in a line, as any mistake; the mint goes on, and so do hangups.
    """
    policy = realm.policy_path.read_text()
    with mint_process(realm, valkey.url) as process:
        first = line_of(process.stderr)["policy"]
        realm.policy_path.unlink()
        realm.policy_path.mkdir()
        process.send_signal(signal.SIGHUP)
        assert (line_of(process.stderr)["reloaded"], httpx.get(f"{realm.issuer}/healthz").status_code) == (False, 200)
        realm.policy_path.rmdir()
        realm.policy_path.write_text(policy)
        process.send_signal(signal.SIGHUP)
        assert line_of(process.stderr) == {"reloaded": True, "policy": first}
