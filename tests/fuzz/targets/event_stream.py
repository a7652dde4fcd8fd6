# SPDX-License-Identifier: Apache-2.0
"""Server-sent events: the same events however the network cuts the stream, and no byte is lost."""

from collections.abc import AsyncIterator, Iterator

from arx_caps.http.event_stream import fields_of, is_whole, split_events, with_data
from arx_verifier.errors import RequestError

MAX_BYTES = 1_024
LONGEST = 256
MARK = b"\xef\xbb\xbf"


def check(data: bytes) -> None:
    """Cut the input after as many bytes as its first one says, and byte by byte."""
    size, stream = (data[0] % 16 + 1 if data else 1), data[1:]
    cut = _events([stream[at : at + size] for at in range(0, len(stream), size)])
    single = _events([stream[at : at + 1] for at in range(len(stream))])
    if cut is None or single is None:
        return
    # A CR LF that is cut in two leaves the LF to the next event, which means the same there.
    assert [*map(fields_of, filter(bytes.strip, cut))] == [*map(fields_of, filter(bytes.strip, single))]
    assert b"".join(cut) in (stream, stream.removeprefix(MARK))
    for event in cut:
        fields = fields_of(event)
        if is_whole(event):
            # The data alone is replaced.
            again = fields_of(with_data(event, b"{}"))
            assert (again.data, again.id, again.retry_ms) == (b"{}", fields.id, fields.retry_ms)


def _events(chunks: list[bytes]) -> list[bytes] | None:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def collect() -> list[bytes]:
        return [event async for event in split_events(stream(), LONGEST)]

    try:
        collect().send(None)  # nothing in it waits, so no loop is needed
    except StopIteration as end:
        events: list[bytes] = end.value
        return events
    except RequestError:
        return None
    raise AssertionError("it waits")


def seeds() -> Iterator[bytes]:
    """Return streams with each end of a line."""
    for end in (b"\n", b"\r\n", b"\r"):
        yield b"\3" + end.join([b"id: 7", b"data: {}", b"", b"data: a", b"data: b", b"retry: 10", b"", b""])
    yield b"\1" + MARK + b"data: x\n\n: comment\n\nevent: message\ndata: {}\n\ndata: cut"
    yield b"\7" + b"data: " + b"x" * 300 + b"\n\n"
