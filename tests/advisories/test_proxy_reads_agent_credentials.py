# SPDX-License-Identifier: Apache-2.0
"""A proxy that the environment names could read an agent's assertion and bundles in the clear.

An agent on a machine with ``HTTP_PROXY`` set, and a mint on loopback or on plain HTTP, sent its assertion and received
its bundles through that proxy in the clear.  The proxy's operator opens a session with the assertion, as that agent
and with a key of his own, or uses the bundle.
"""

import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from arx_caps.agent import Agent
from arx_caps.agent.sessions.mint_client import MintClient, takes_proxy
from arx_caps.cli.access.mint_session import Caller
from arx_caps.credentials.jose import SigningKey
from arx_caps.credentials.keyfile import KeyFile
from arx_verifier.clock import now_ms
from arx_verifier.errors import StoreError


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A proxy that the environment names; yields what it was sent."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            for variable in (name, name.upper()):
                monkeypatch.setenv(variable, f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)

        def listen() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(65536))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield heard
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_an_agent_does_not_ask_a_mint_on_loopback_through_a_proxy(proxy: list[bytes], free_port: int) -> None:
    """The proxy gets nothing; the answer is that no process listens at the mint's address."""
    key = KeyFile.generate("agent", "acme/support/triage", f"http://127.0.0.1:{free_port}")
    with Agent(key) as agent, pytest.raises(StoreError):
        agent.open_session()
    assert proxy == []


@pytest.mark.parametrize(
    ("issuer", "taken"),
    [
        ("http://127.0.0.1:8700", False),
        ("http://localhost:8700", False),
        ("http://[::1]:8700", False),
        ("https://127.0.0.1:8700", False),
        ("http://mint.example", False),
        ("http://mint.example\n", False),
        ("https://mint.example", True),
    ],
)
def test_only_what_a_proxy_cannot_read_goes_through_one(
    issuer: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library and the command line agree: a proxy is taken for HTTPS to another machine, and for nothing else."""
    assert takes_proxy(issuer) is taken
    trusted: list[bool] = []

    class Client(httpx.Client):
        def __init__(self, *, trust_env: bool, **settings: object) -> None:
            trusted.append(trust_env)

    monkeypatch.setattr(httpx, "Client", Client)
    MintClient(issuer, now=now_ms)
    if "\n" not in issuer:
        Caller(issuer, SigningKey.generate())
    assert set(trusted) == {taken}
