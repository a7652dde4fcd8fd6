# SPDX-License-Identifier: Apache-2.0
"""A mint that is stopped finishes what it has begun: whatever it did, it has answered."""

import signal
import threading
from pathlib import Path

import httpx
import pytest

from arx_caps.cli.caller import Caller
from arx_caps.embedded import EmbeddedValkey
from arx_caps.jose import SigningKey
from arx_caps.mint.founding import init_realm
from arx_caps.mint.state import State
from tests.mint.test_serve import mint_process

pytestmark = pytest.mark.servers
WORKERS = 6
BEFORE = 20  # answers before it is stopped, so that it is at work


def test_what_was_done_was_answered(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str, free_port: int) -> None:
    """SIGTERM under load: as many agents are enrolled as callers were told, nobody is left with half an answer."""
    listen = f"127.0.0.1:{free_port}"
    realm = init_realm(tmp_path / "realm", name=realm_name, issuer=f"http://{listen}", listen=listen)
    told: list[int] = []
    at_work, broken = threading.Event(), []

    def load(number: int) -> None:
        caller = Caller.operator(realm.operator_key_path, None)
        for count in range(100_000):
            body = {"path": f"load/w{number}/a{count}", "jwk": SigningKey.generate().public.jwk}
            try:
                caller.call("POST", "/v1/agents", body)
            except Exception as error:
                broken.append(error)
                return
            told.append(1)
            if len(told) >= BEFORE:
                at_work.set()

    with mint_process(realm, valkey.url) as process:
        assert process.stderr is not None
        assert any('"ready": true' in line for line in iter(process.stderr.readline, ""))
        workers = [threading.Thread(target=load, args=(number,)) for number in range(WORKERS)]
        for worker in workers:
            worker.start()
        assert at_work.wait(30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
        for worker in workers:
            worker.join()
    with State(realm.database_url) as state:
        enrolled = [event for event in state.outbox.after(0, 100_000) if event.kind == "agent.enrolled"]
    assert len(enrolled) == len(told)
    assert len(broken) == WORKERS
    with pytest.raises(httpx.ConnectError):
        httpx.get(realm.issuer + "/healthz", trust_env=False)
