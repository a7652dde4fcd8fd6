# SPDX-License-Identifier: Apache-2.0
"""A verifier with several slow relays left each before its copy of a large realm was complete, and never served.

It gave each step of a new connection half of its time-out. No bound ended a copy that a relay never completes.
"""

import socket
import threading
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation import relay_link
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.relay_link import RelayAddress, RelayLink, RelayPage, frame
from arx_verifier.revocation.store_link import FeedError
from tests.relay.processes import RelayProcess
from tests.servers import free_ports, until

pytestmark = pytest.mark.spec("10.7")

SECRET = {"ARX_RELAY_PASSWORD": "pw"}
SLOW = """
import asyncio, sys
from arx_caps.cli.__main__ import main
from arx_caps.relay import serve
from arx_verifier.revocation.relay_link import RelayPage

class Slow(serve.Connection):
    def send(self, message):
        later = 0.7 if isinstance(message, RelayPage) else 0
        asyncio.get_running_loop().call_later(later, super().send, message)

serve.Connection = Slow
main()
"""


@pytest.mark.slow
@pytest.mark.servers
def test_a_page_may_take_the_whole_time_out(own_valkey: EmbeddedValkey, realm_name: str) -> None:
    """
    Two relays need more than half of it for each page, and less than all of it.
    """
    ports = free_ports(2)
    with RevocationStore(own_valkey.url, realm_name) as store:
        store.load_functions()
        place = store.init().place
    relays = [
        RelayProcess(own_valkey.url, realm_name, f"127.0.0.1:{port}", f"r{port}", (), SECRET, ("-c", SLOW))
        for port in ports
    ]
    follower = Follower("relay://:pw@" + ",".join(f"127.0.0.1:{port}" for port in ports), realm_name, "v")
    try:
        until(lambda: follower.check(place.incarnation, place.seq, ("agent:acme/x",)) is None)
    finally:
        follower.close()
        for relay in relays:
            relay.kill()


def test_a_copy_without_an_end_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The relay answers in time, and always has one page more.
    """
    monkeypatch.setattr(relay_link, "COPY_S", 0.1, raising=False)
    wakes, wake = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listener, wakes, wake:
        listener.bind(str(tmp_path / "r"))
        listener.listen()
        relay = threading.Thread(target=serve_without_end, args=(listener,))
        relay.start()
        link = RelayLink(RelayAddress(f"relay+unix://{tmp_path / 'r'}"), 60, "acme", wake).open()
        try:
            with pytest.raises(FeedError, match="copy"):
                link.scan("k")
        finally:
            link.close()
            relay.join()


def serve_without_end(listener: socket.socket) -> None:
    """Answer the messages of a connection by one more page each."""
    connection, _ = listener.accept()
    with connection:
        try:
            for _ in range(100_000):
                connection.recv(4096)
                connection.sendall(frame(RelayPage(1, {"session:s-1": 1})))
        except ConnectionError:
            return
