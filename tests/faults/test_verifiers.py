# SPDX-License-Identifier: Apache-2.0
"""The verifier's process is in trouble: suspended, forked, busy, its clock stepped.  Nothing is accepted after L."""

import os
import signal

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation.epoch import boot_clock
from tests.faults.conftest import L_NS, Watch, bounded, kill, token
from tests.servers import FAST_LEASE_MS, freeze, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.6")]


@pytest.mark.parametrize("killed_too", [True, False])
def test_a_suspended_verifier(
    own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch, killed_too: bool
) -> None:
    """After the thaw it refuses until the store has answered, whatever it knew; then it catches up by itself."""
    witness = start(own_valkey.url)
    stopped = witness.freeze()
    killed = kill(store) if killed_too else stopped
    until(lambda: boot_clock() - stopped > 2 * L_NS)
    # The store is silent, too: else the follower may have a new lease before the first decision, and it would be right.
    pid = own_valkey.server_pid
    freeze(pid)
    thawed = boot_clock()
    witness.thaw()
    # Until it has decided again, its last word is that of before the freeze.
    until(lambda: any(run.last > thawed for run in witness.runs()))
    assert next(run for run in witness.runs() if run.last > thawed).code in ("stale", "revoked")
    assert witness.last_accepted() < thawed
    os.kill(pid, signal.SIGCONT)
    witness.until("revoked" if killed_too else "ok")
    if killed_too:
        bounded(witness, killed)
        witness.watch(token=token(store))
    witness.until("ok")


def test_a_forked_child(own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch) -> None:
    """The child inherits no lease: it refuses first, then follows by itself under a name of its own."""
    witness = start(own_valkey.url)
    first, live, then, name = witness.say(fork=True)
    assert (first, live, then) == ("closed", True, "ok")
    assert name.startswith("tool.")
    killed = kill(store)
    witness.until("revoked")
    bounded(witness, killed)


@pytest.mark.slow
def test_sixteen_busy_threads(own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch) -> None:
    """
    The follower's thread hardly ever runs.  That costs service, not the bound: not even with the store frozen.
    """
    witness = start(own_valkey.url)
    witness.say(busy=16)
    killed = kill(store)
    until(lambda: witness.code() != "ok" and boot_clock() - killed > 2 * L_NS)
    bounded(witness, killed)
    witness.watch(token=token(store))
    witness.until("ok", within_s=30)
    pid = own_valkey.server_pid
    stopped = freeze(pid)
    until(lambda: boot_clock() - stopped > 2 * L_NS)
    bounded(witness, stopped)  # before the store goes on: a busy process answers late, and has a new lease by then
    os.kill(pid, signal.SIGCONT)
    witness.watch(token=token(store))
    witness.until("ok", within_s=30)


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_stepped_wall_clock(own_valkey: EmbeddedValkey, store: RevocationStore, start: Watch, hours: int) -> None:
    """
    Set forward or back by hours under a frozen store: no lease becomes longer.  As long as it is off it is fenced,
    because no expiry could be trusted; set right, there is service.
    """
    witness, pid = start(own_valkey.url), own_valkey.server_pid
    stopped = freeze(pid)
    witness.say(wall=hours * 3_600 * 10**9)
    until(lambda: boot_clock() - stopped > FAST_LEASE_MS * 1_000_000)
    witness.until("stale")
    bounded(witness, stopped)
    os.kill(pid, signal.SIGCONT)
    witness.until("fenced")
    witness.say(wall=0)
    witness.until("ok")
