# SPDX-License-Identifier: Apache-2.0
"""Many followers of a relay in one process: they ask and confirm as verifiers do, and decide nothing."""

import asyncio
import subprocess
import sys
from pathlib import Path

import msgspec

from arx_verifier.revocation.history import NOWHERE, HistoryPlace
from arx_verifier.revocation.relay_link import RELAY_VERSION, Down, Frames, Hello, Probe, Push, RelayAnswer, frame

ROOT = Path(__file__).resolve().parents[1]
INTERVAL_S = 0.25


class Crowd:
    """The parent's handle on such a process."""

    def __init__(self, url: str, realm: str, count: int) -> None:
        command = [sys.executable, "-m", "benchmarks.kill_crowd", url.removeprefix("relay+unix://"), realm, str(count)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


class One(asyncio.Protocol):
    """One follower."""

    def __init__(self, realm: str, name: str) -> None:
        self._realm, self._name = realm, name
        self._frames, self._decoder = Frames(), msgspec.msgpack.Decoder(Down)
        self._place = NOWHERE
        self.live = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, and ask."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(frame(Hello(RELAY_VERSION, self._realm)))
        self._ask_in_turn()

    def _ask_in_turn(self) -> None:
        self._ask()
        asyncio.get_running_loop().call_later(INTERVAL_S, self._ask_in_turn)

    def _ask(self) -> None:
        self._transport.write(frame(Probe(self._name, *self._place, 1_000, False)))

    def data_received(self, data: bytes) -> None:
        """Take what the relay says; a new entry is confirmed."""
        for body in self._frames.feed(data):
            message = self._decoder.decode(body)
            if isinstance(message, Push):
                before, self._place = (
                    self._place,
                    self._place.after(message.incarnation, message.seq, message.op, message.target),
                )
                if self._place != before:
                    self._ask()
            elif isinstance(message, RelayAnswer):
                self._place = HistoryPlace(message.incarnation, message.seq, message.chain)
                self.live.set()


async def run(path: str, realm: str, count: int) -> None:
    """Follow until the process is ended."""
    loop = asyncio.get_running_loop()
    ones = [One(realm, f"v{index}") for index in range(count)]
    for one in ones:
        await loop.create_unix_connection(lambda one=one: one, path)  # type: ignore[misc]
        await asyncio.sleep(INTERVAL_S / count)
    for one in ones:
        await one.live.wait()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3])))
