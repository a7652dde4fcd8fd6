# SPDX-License-Identifier: Apache-2.0
"""An upstream of the gateway could run one call twice, whose budget paid once and whose approval was for one call.

The HTTP client of the gateway sent a GET, a PUT or a DELETE again when the connection was lost before an answer.  Now
it sends each once, and says that it may have run.
"""

import asyncio
from pathlib import Path

import pytest

from arx_caps.gateway.base.settings import UpstreamTerms
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.upstream.forwarder import Forwarder
from tests.gateway.door import CALL


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST"])
def test_a_call_whose_answer_is_lost_is_sent_once(method: str, tmp_path: Path) -> None:
    """On a new connection, and on one that was used before."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readline()):
            await reader.readuntil(b"\r\n\r\n")
            got.append(head.split()[1])
            if got[-1] == b"/lost":
                break
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            terms = UpstreamTerms(audience="orders", url=url, routes={"GET /lost": "orders.get"})
            forwarder = Forwarder("orders", terms, tmp_path)
            forwarder.open()
            for _ in range(2):
                with pytest.raises(UpstreamError) as caught:
                    async with forwarder.send(method, [], b"", "/lost", call=CALL):
                        pass
                assert (caught.value.sent, caught.value.timed_out) == (True, False)
                async with forwarder.send("GET", [], b"", "/good", call=CALL) as answer:
                    async for _ in answer.content.iter_any():
                        pass
            await forwarder.close()

    asyncio.run(run())
    assert got == [b"/lost", b"/good"] * 2
