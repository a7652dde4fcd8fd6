# SPDX-License-Identifier: Apache-2.0
"""In legant and tenuo, a verifier without current revocations let every call through.

ARx: past the lease every check refuses and says ``stale``; without any view it
refuses and says ``syncing``; and both say that it is worth asking again.
"""

import os
import signal

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.errors import REASONS, StaleEpochError, refusal
from arx_verifier.revocation.epoch import boot_clock
from tests.faults.conftest import L_NS, token
from tests.faults.witness import Witness
from tests.servers import freeze, until

pytestmark = pytest.mark.servers


@pytest.mark.slow
def test_past_the_lease_every_check_refuses(own_valkey: EmbeddedValkey, own_fast_store: RevocationStore) -> None:
    """
    Three processes and a frozen store: of all that they decide after a lease, nothing is anything but ``stale``, and
    one that starts then decides nothing but ``syncing``.
    """
    live = token(own_fast_store)
    witnesses = [Witness(own_valkey.url, own_fast_store.realm, f"tool-{number}") for number in range(3)]
    pid = own_valkey.server_pid
    try:
        for witness in witnesses:
            witness.watch(token=live)
        for witness in witnesses:
            witness.until("ok")
            witness.watch(token=live)
            witness.until("ok")
        stopped = freeze(pid)
        witnesses.append(late := Witness(own_valkey.url, own_fast_store.realm, "late"))
        late.watch(token=live)
        until(lambda: boot_clock() - stopped > 4 * L_NS and late.code() != "")
        for witness in witnesses[:3]:
            runs = witness.runs()
            assert [run.code for run in runs] == ["ok", "stale"]
            assert runs[0].last - stopped < L_NS
            assert runs[1].count > 50
        assert [run.code for run in late.runs()] == ["syncing"]
        os.kill(pid, signal.SIGCONT)
        for witness in witnesses:
            witness.until("ok")
    finally:
        os.kill(pid, signal.SIGCONT)
        for witness in witnesses:
            witness.close()


@pytest.mark.parametrize("code", ["stale", "syncing", "fenced", "closed"])
def test_it_is_reported_as_what_it_is(code: str) -> None:
    """503 and not 401 or 403: the token may be good, and the client is to ask again."""
    error = refusal(code)
    assert isinstance(error, StaleEpochError)
    assert (error.status_hint, REASONS[code].status) == (503, 503)
