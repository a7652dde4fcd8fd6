# SPDX-License-Identifier: Apache-2.0
"""Lines of a route table, and requests to the table that has them: a tool with its arguments, or a refusal."""

from collections.abc import Iterator

from arx_verifier.enforcement.base.routes import RouteMap, read_key
from arx_verifier.errors import RequestError, SettingsError

MAX_BYTES = 1_024


def check(data: bytes) -> None:
    """Read the first line as a route and the rest as a request: method, path, query and body."""
    line, _, rest = data.partition(b"\n")
    text = line.decode("latin-1")
    try:
        key = read_key(text, "orders.get")
    except SettingsError:
        return
    assert key.text == text
    try:
        routes = RouteMap({text: "orders.get"})
    except SettingsError:
        return
    method, _, rest = rest.partition(b" ")
    target, _, body = rest.partition(b"\n")
    path, _, query = target.partition(b"?")
    scope = {
        "type": "http",
        "method": method.decode("latin-1"),
        "path": path.decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "headers": [(b"content-type", b"application/json")] if body else [],
    }
    try:
        found = routes(scope, body)
    except RequestError:
        return
    if found is not None:
        tool, args = found
        assert tool == "orders.get"
        assert all(isinstance(name, str) for name in args)


def seeds() -> Iterator[bytes]:
    """Return routes with a request."""
    yield from (
        b"GET /orders/{order_id}\nGET /orders/7",
        b"POST /orders/{order_id}/refund?{dry_run}&{limit:int}\nPOST /orders/7/refund?limit=3\n{}",
        b"GET /orders/{order_id:int}/{price:number}\nGET /orders/7/0.5",
        b"GET /files/{name:path}\nGET /files/a/b",
        b"GET /orders?{tag:list}&{price:number}\nGET /orders?tag=a&tag=b&price=0.5",
        b'POST /orders\nPOST /orders\n{"amount":5}',
        b"WEBSOCKET /live/{id}\nGET /live/1",
        b"orders.list\nGET /",
        b"GET /a b\nGET /a",
    )
