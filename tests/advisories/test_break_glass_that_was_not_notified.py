# SPDX-License-Identifier: Apache-2.0
"""An attacker on the mint's host could make an administrator, with no mint running, and no receiver was notified."""

from pathlib import Path

import pytest

from arx_caps.credentials.jose import KeyFile
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.runtime import MintRuntime
from arx_caps.mint.server.init_realm import recover_operator
from tests.mint.harness import ISSUER, open_live
from tests.mint.receiver import ReceiverProcess
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 7.2")]


def test_the_next_mint_sends_it(
    tmp_path: Path, realm_name: str, valkey: EmbeddedValkey, receiver: ReceiverProcess
) -> None:
    """It waits in the database, in the transaction of the change, until a mint starts."""
    settings = f'webhook_hosts = ["{receiver.netloc}"]\n'
    with open_live(tmp_path / "realm", valkey.url, name=realm_name, settings=settings) as harness:
        realm = harness.realm
        answer = harness.operator().call("POST", "/v1/webhooks", {"url": receiver.url()})
        assert answer.status_code == 201
    key = KeyFile.generate("operator", "night", ISSUER).key.public
    recover_operator(realm, "night", key, passphrase=None)
    assert receiver.got == []
    mint = MintRuntime.open(realm, store_url=valkey.url)
    mint.start()
    try:
        until(lambda: receiver.got != [])
    finally:
        mint.close()
    data = receiver.got[0].body["data"]
    assert (receiver.got[0].body["type"], data["operator"], data["key"]) == ("operator.recovered", "night", key.kid)
    assert data["by"].startswith("host:")
