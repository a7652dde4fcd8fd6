# SPDX-License-Identifier: Apache-2.0
"""Query strings and header lists of requests: what the rules see has one spelling.  SPEC 8.2."""

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode

from arx_verifier.enforcement.base.client_address import Peers
from arx_verifier.enforcement.base.routes import collect_headers, read_query
from arx_verifier.errors import RequestError

MAX_BYTES = 2_048


def check(data: bytes) -> None:
    """Read a query, write its values, and read that; and read the input as headers."""
    try:
        values = read_query(data)
    except RequestError:
        pass
    else:
        assert read_query(urlencode(values).encode()) == values
        # The standard library's parser, which frameworks use, reads the same where it reads it as UTF-8.
        expected = parse_qsl(data.decode("ascii"), keep_blank_values=True)
        assert dict(expected) == values
    lines = [line.partition(b":") for line in data.split(b"\n")]
    headers = collect_headers([(name, value) for name, _, value in lines])
    assert set(headers) == {name.lower() for name, _, _ in lines}
    found = Peers(["10.0.0.0/8"]).of("10.0.0.1", [data.decode("latin-1")])
    # The zone of an IPv6 address is text of its own.
    assert found is None or found.partition("%")[0] == found.partition("%")[0].strip().lower()


def seeds() -> Iterator[bytes]:
    """Return queries and headers."""
    yield from (
        b"limit=7&tag=a%20b&x=+",
        b"a=1&a=2",
        b"a=%ff",
        b"a=%C3%A9&%C3%A9=&=",
        b"a=%2",
        b"&".join(b"f%d=1" % number for number in range(20)),
        b"Host: a\nX-Forwarded-For: 1.2.3.4\nhost: b",
        b"198.51.100.7, 10.0.0.3",
        b"[2001:db8::1]:443, ::ffff:10.0.0.1",
    )
