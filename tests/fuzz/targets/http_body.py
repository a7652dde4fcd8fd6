# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests, JSON and multipart, by their content type.  SPEC 8.2, RFC 7578."""

from collections.abc import Iterator
from email.parser import BytesParser

from arx_verifier.enforcement.base.routes import read_body
from arx_verifier.errors import RequestError

MAX_BYTES = 4_096


def check(data: bytes) -> None:
    """Read the first line as the content type, the rest as the body."""
    kind, _, body = data.partition(b"\n")
    try:
        values = read_body({b"content-type": kind}, body)
    except RequestError:
        return
    assert all(isinstance(name, str) for name in values)
    if kind.lower().startswith(b"multipart/form-data") and body:
        # Another parser finds as many parts.
        whole = BytesParser().parsebytes(b"Content-Type: " + kind + b"\r\n\r\n" + body)
        assert whole.is_multipart()
        assert len(whole.get_payload()) == len(values)


def seeds() -> Iterator[bytes]:
    """Return bodies of each type."""
    field = b'--b\r\nContent-Disposition: form-data; name="amount"\r\n\r\n5\r\n'
    file = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nx\r\n'
    for body in (field + b"--b--\r\n", file + b"--b--", field + file + b"--b--\r\n", field + field + b"--b--"):
        yield b"multipart/form-data; boundary=b\n" + body
    for kind in (b"application/json", b"application/json; charset=utf-8", b"application/vnd.x+json", b"text/plain"):
        yield kind + b'\n{"a":[1,{"b":null}]}'
    yield b"application/x-www-form-urlencoded\na=1"
