# SPDX-License-Identifier: Apache-2.0
"""A mint that is stopped finishes what it has begun: whatever it did, it has answered."""

import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from arx_caps.agent.sessions import mint_client
from arx_caps.cli.access.mint_session import Caller
from arx_caps.credentials.jose import SigningKey
from arx_caps.embedded import EmbeddedValkey
from arx_caps.http.connections import AT_ONCE
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.server.init_realm import init_realm
from tests.mint.test_serve import mint_process
from tests.servers import until

pytestmark = pytest.mark.servers
WORKERS = 6
ASKED = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
BEFORE = 20  # answers before it is stopped, so that it is at work


@pytest.mark.slow
def test_what_was_done_was_answered(
    tmp_path: Path,
    valkey: EmbeddedValkey,
    realm_name: str,
    free_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGTERM under load: as many agents are enrolled as callers have answers, and no answer is cut."""
    listen = f"127.0.0.1:{free_port}"
    realm = init_realm(tmp_path / "realm", name=realm_name, issuer=f"http://{listen}", listen=listen)
    monkeypatch.setattr(mint_client, "PAUSES_S", (0.05,))
    notices: list[int] = []
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
            notices.append(1)
            if len(notices) >= BEFORE:
                at_work.set()

    with mint_process(realm, valkey.url) as process:
        assert process.stderr is not None
        assert any('"ready": true' in line for line in iter(process.stderr.readline, ""))
        workers = [threading.Thread(target=load, args=(number,)) for number in range(WORKERS)]
        for worker in workers:
            worker.start()
        assert at_work.wait(30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
        for worker in workers:
            worker.join()
    with MintDatabase(realm.database_url) as db:
        enrolled = [event for event in db.outbox.after(0, 100_000) if event.kind == "agent.enrolled"]
    assert len(enrolled) == len(notices)
    assert len(broken) == WORKERS
    with pytest.raises(httpx.ConnectError):
        httpx.get(realm.issuer + "/healthz", trust_env=False)


@pytest.mark.slow
def test_who_was_connected_is_answered(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str, free_port: int) -> None:
    """Who had connected before it is stopped gets an answer: on a connection that waits to be accepted, on one that had
    an answer before, and where a request has only begun to arrive.  Who has nothing to ask holds nothing up.
    """
    listen = f"127.0.0.1:{free_port}"
    realm = init_realm(tmp_path / "realm", name=realm_name, issuer=f"http://{listen}", listen=listen)
    with mint_process(realm, valkey.url) as process, ExitStack() as stack:
        assert process.stderr is not None
        assert any('"ready": true' in line for line in iter(process.stderr.readline, ""))

        def connect() -> socket.socket:
            made = stack.enter_context(socket.create_connection(("127.0.0.1", free_port), 10))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made

        known = [connect() for _ in range(4)]
        for each in known:
            each.sendall(ASKED)
            assert answer_on(each).startswith(b"HTTP/1.1 200")
        process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        fresh = [connect() for _ in range(2 * AT_ONCE)]
        for each in (*known[1:], *fresh[2:]):
            each.sendall(ASKED)
        fresh[1].sendall(ASKED[:9])
        process.send_signal(signal.SIGTERM)
        # uvicorn looks ten times a second whether it is to stop: it is to find that before it finds who has connected.
        until(lambda: time.monotonic() > stopped + 0.2)
        process.send_signal(signal.SIGCONT)
        fresh[1].sendall(ASKED[9:])
        answers = [answer_on(each) for each in (*known[1:], *fresh[1:])]
        assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
        assert (answer_on(known[0]), answer_on(fresh[0])) == (b"", b"")
        assert process.wait(60) in (0, -signal.SIGTERM)


def answer_on(connection: socket.socket) -> bytes:
    """Read an answer; nothing where the connection ended without one."""
    came = b""
    try:
        while not came.endswith(b"}") and (piece := connection.recv(65536)):
            came += piece
    except ConnectionResetError:
        return b"reset"
    return came
