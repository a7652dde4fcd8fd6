# SPDX-License-Identifier: Apache-2.0
"""A mint let a server grant leases that lacked a kill: the store's address moved between its look and its word.

A mint compares the store with its database and the audit log, and then attests the server that answers.  Where that was
another one by then, without a sign of a replica, such as one that was restored from a snapshot, it was not compared.
"""

from pathlib import Path
from typing import Any

import pytest

from arx_caps.mint.runtime import MintRuntime
from arx_caps.revocation.store import functions
from tests.faults.conftest import BY
from tests.faults.proxy import Proxy
from tests.mint.harness import make_realm
from tests.servers import FAST_LEASE_MS, begun_store, free_ports
from tests.topologies.fleet import LASTING, NAMES, Server, need, running

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.11")]

SESSION = "session:s-aaaaaaaaaaaaaaaa"


def test_the_address_moves_while_a_mint_starts(
    tmp_path: Path, realm_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mint ends the history of a server that it had not compared, before any verifier gets a lease of it."""
    ports, binary = free_ports(2), need(NAMES[0])
    first, second = (
        Server(tmp_path / name, port, *LASTING, binary=binary) for name, port in zip("ab", ports, strict=True)
    )
    link = Proxy(ports[0])
    try:
        with running(first, second), begun_store(link.url, realm_name, lease_ms=FAST_LEASE_MS):
            mint = MintRuntime.open(make_realm(tmp_path / "realm", realm_name), store_url=link.url)
            mint.start()
            with first.client() as source, second.client() as copy:
                for key in source.keys(f"*{realm_name}*"):
                    copy.restore(key, 0, source.dump(key))
                copy.function_load(functions())
            report = mint.revoker.end("kill", [SESSION], reason="test", by=BY, wait=False)
            mint.close()
            again = MintRuntime.open(mint.realm, store_url=link.url)
            init = again.store.init

            def move(*args: Any, **named: Any) -> Any:
                header = init(*args, **named)
                link.upstream = ports[1]
                link.drop()
                link.heal()
                return header

            monkeypatch.setattr(again.store, "init", move)
            try:
                again.log.start()
                again.history.attest()
                header = again.store.header()
                assert header.incarnation != report.incarnation, "the second server has the history without its kill"
                assert header.seq >= report.seq
            finally:
                again.close()
    finally:
        link.close()
