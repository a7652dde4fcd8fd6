# SPDX-License-Identifier: Apache-2.0
"""What a request means, where it came from, and how a refusal is answered: each in one way only."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.enforcement.base.client_address import Peers
from arx_verifier.enforcement.base.problems import answer
from arx_verifier.enforcement.base.routes import RouteMap, read_query
from arx_verifier.errors import REASONS, Failure, RequestError, SettingsError
from arx_verifier.jcs import number as number_text

pytestmark = pytest.mark.spec("8.4")


@pytest.mark.parametrize(
    ("client", "forwarded", "peer"),
    [
        ("192.0.2.9", ["1.1.1.1"], "192.0.2.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["6.6.6.6", "192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1:4711"], "192.0.2.1"),
        ("10.0.0.1", ["[2001:db8::1]:80"], "2001:db8::1"),
        ("10.0.0.1", ["192.0.2.1, unknown"], None),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("::ffff:192.0.2.9", [], "192.0.2.9"),
        ("::ffff:10.0.0.1", ["::ffff:192.0.2.1"], "192.0.2.1"),
        ("/run/app.sock", ["192.0.2.1"], None),
        (None, ["192.0.2.1"], None),
    ],
)
def test_the_right_most_untrusted_address_counts(client: str | None, forwarded: list[str], peer: str | None) -> None:
    """Any client may have written what is left of it."""
    assert Peers(["10.0.0.0/8"]).of(client, forwarded) == peer


def test_settings_that_cannot_be_meant_are_refused_at_start() -> None:
    """Bad networks, routes and tools do not wait for the first request."""
    with pytest.raises(SettingsError):
        Peers(["10.0.0.1/8"])
    for route in (
        "orders",
        "get /x",
        "GET x",
        "GET /a//b",
        "GET /{a}/{a}",
        "GET /{a:path}/x",
        "GET /a?b",
        "GET /a%20b",
    ):
        with pytest.raises(SettingsError):
            RouteMap({route: "orders.get"})
    with pytest.raises(SettingsError):
        RouteMap({"GET /x": "not a tool"})
    with pytest.raises(SettingsError, match="a WebSocket needs a token"):
        RouteMap({}, ["WEBSOCKET /live"])
    with pytest.raises(SettingsError, match="same requests"):
        RouteMap({"GET /a/{x}": "one", "GET /a/{y}": "two"})


def test_literal_segments_win() -> None:
    """As in the frameworks where the literal route is registered first; a mounted application's root is left out."""
    tools = RouteMap({"GET /{a}/{b}": "both", "GET /x/{b}": "left", "GET /{a}/y": "right", "GET /x/y": "none"})

    def meaning(path: str, root: str = "") -> Any:
        scope = {"method": "GET", "path": path, "root_path": root, "query_string": b"", "headers": []}
        return tools(scope, b"")

    assert meaning("/x/y") == ("none", {})
    assert meaning("/x/z") == ("left", {"b": "z"})
    assert meaning("/z/y") == ("right", {"a": "z"})
    assert meaning("/z/z") == ("both", {"a": "z", "b": "z"})
    assert meaning("/api/x/y", "/api") == ("none", {})
    assert meaning("/apix/y", "/api") == ("right", {"a": "apix"})
    assert meaning("/x/") is None


def asked(line: str, query: str) -> Any:
    """The arguments of a request of the line's route; None if it is refused."""
    scope = {"method": "GET", "path": "/orders", "query_string": query.encode(), "headers": []}
    try:
        meaning = RouteMap({line: "orders.list"})(scope, b"")
    except RequestError:
        return None
    assert meaning is not None
    return meaning[1]


@pytest.mark.spec("8.4")
@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "7", 7),
        ("int", "0", 0),
        ("int", "-12", -12),
        ("int", "9007199254740991", 2**53 - 1),
        ("number", "7", 7),
        ("number", "5.5", 5.5),
        ("number", "-0.25", -0.25),
        ("number", "1e-7", 1e-7),
        *(("int", text, None) for text in ("007", "-0", "%2B7", "7.0", "7.5", " 7", "7+", "٧", "", "9007199254740992")),
        *(("number", text, None) for text in ("5.50", "5.0", ".5", "5.", "1e5", "1E-7", "-0", "NaN", "Infinity")),
        ("number", "1e%2B21", None),
        ("number", "0.1000000000000000055", None),
        ("number", "1" * 400, None),
        ("number", "1e%2B999", None),
    ],
)
def test_a_number_in_the_query_has_one_spelling(kind: str, text: str, value: Any) -> None:
    """A declared number is judged as a number; another spelling of it is refused, as two readers could differ."""
    found = asked("GET /orders?{limit:" + kind + "}", f"limit={text}")
    assert found == (None if value is None else {"limit": value})
    assert found is None or type(found["limit"]) is type(value)


@pytest.mark.spec("8.4")
def test_a_declared_list_has_every_value() -> None:
    """One value is a list too; a name twice is refused where no list is declared."""
    line = "GET /orders?{tag:list}&{page}"
    assert asked(line, "tag=a&page=1&tag=b") == {"tag": ["a", "b"], "page": "1"}
    assert asked(line, "tag=a") == {"tag": ["a"]}
    assert asked(line, "page=1") == {"page": "1"}
    assert asked(line, "page=1&page=2") is None
    assert asked("GET /orders", "tag=a&tag=b") is None
    for wrong in ("GET /orders?{tag:text}", "GET /orders?{tag:list}&{tag}", "GET /orders?{:int}"):
        with pytest.raises(SettingsError):
            RouteMap({wrong: "orders.list"})


@pytest.mark.spec("8.4")
def test_a_parameter_may_take_the_rest_of_a_path() -> None:
    """The more special route is the meaning, in each order of the table; the rest is one clean path."""
    lines = {
        "GET /files/{name:path}": "rest",
        "GET /files/public/{name:path}": "public",
        "GET /files/private/{name}": "info",
        "GET /files/index": "index",
        "GET /orders/{kind}/{name:path}": "by",
    }
    for tools in (lines, dict(reversed(lines.items()))):
        table = RouteMap(tools)

        def meaning(path: str, table: RouteMap = table) -> Any:
            return table({"method": "GET", "path": path, "query_string": b"", "headers": []}, b"")

        assert meaning("/files/a/b.txt") == ("rest", {"name": "a/b.txt"})
        assert meaning("/files/a/") == ("rest", {"name": "a/"})
        assert meaning("/files/public/a/b") == ("public", {"name": "a/b"})
        assert meaning("/files/public") == ("rest", {"name": "public"})
        assert meaning("/files/private/a") == ("info", {"name": "a"})
        assert meaning("/files/index") == ("index", {})
        assert meaning("/orders/new/x") == ("by", {"kind": "new", "name": "x"})
        assert [meaning(path) for path in ("/files/", "/files", "/other/x")] == [None] * 3
        for path in ("/files//a", "/files/../a", "/files/a/..", "/files/a\\b"):
            with pytest.raises(RequestError):
                meaning(path)


@pytest.mark.spec("8.4")
def test_a_parameter_of_the_path_may_be_a_number() -> None:
    """One path has one kind, in each place of it; a public route is public for its numbers alone."""

    def meaning(line: str, path: str, *public: str, **more: Any) -> Any:
        scope = {"method": "GET", "path": path, "query_string": b"", "headers": []} | more
        return RouteMap({line: "orders.get"}, public)(scope, b"")

    assert meaning("GET /a/{n:int}/x/{m:number}", "/a/7/x/0.5") == ("orders.get", {"n": 7, "m": 0.5})
    assert meaning("GET /a/{n:int}", "/a/x", "GET /a/x") == ("*public", {})
    for path in ("/a/x/x/1", "/a/7/x/y", "/a/7/x/1.0", "/a/007/x/1"):
        with pytest.raises(RequestError, match="in the path: expected"):
            meaning("GET /a/{n:int}/x/{m:number}", path)
    for other in ("GET /a/{n}", "GET /a/{m:number}", "GET /a/{n:int}"):
        with pytest.raises(SettingsError):
            RouteMap({"GET /a/{n:int}": "a", f"{other}?{{q}}": "b"})
    for wrong in ("GET /a/{n:float}", "GET /a/{n:list}", "GET /a/x{n:int}", "GET /a/{n:int}?{n}"):
        with pytest.raises(SettingsError):
            RouteMap({wrong: "a"})
    outer = {"n": 7, "m": 7.0, "k": 7.5, "big": 2**53, "is": True, "text": "7"}
    judged = {"n": 7, "m": 7, "k": 7.5, "big": "9007199254740992", "is": "true", "text": "7"}
    assert meaning("GET /a/{x}", "/a/x", path_params=outer) == ("orders.get", judged | {"x": "x"})
    for odd in (-0.0, float("nan"), float("inf"), 1e16, 1e-5):
        with pytest.raises(RequestError, match="in the path: expected number"):
            meaning("GET /a/{x}", "/a/x", path_params={"n": odd})
    table = RouteMap({}, ["GET /a/{n:int}"])
    asked = [table.is_public({"method": "GET", "path": f"/a/{text}"}) for text in ("7", "x", "07", "7_0")]
    assert asked == [True, False, False, False]


@pytest.mark.spec("8.4")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("GET /files/{name:path}", "GET /files/{other:path}"),
        ("GET /files/{name:path}", "GET /{kind}/index"),
        ("GET /{kind}/x/{name:path}", "GET /files/{name:path}"),
        ("GET /files/{name:path}", "GET /{kind}/by/{name:path}"),
    ],
)
def test_a_rest_that_meets_another_route_is_an_error(one: str, other: str) -> None:
    """Neither is the more special one, so that the application could take the other."""
    for tools in ({one: "a", other: "b"}, {other: "b", one: "a"}):
        with pytest.raises(SettingsError, match="same requests"):
            RouteMap(tools)
    for wrong in ("GET /{name:path}/x", "GET /files/{n:uuid}", "GET /files/x{name:path}"):
        with pytest.raises(SettingsError):
            RouteMap({wrong: "a"})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_each_number_has_a_spelling(value: float) -> None:
    """Its form in RFC 8785, as a JSON body would have it."""
    text = number_text(value)
    found = asked("GET /orders?{limit:number}", "limit=" + text.replace("+", "%2B"))
    assert found is None or found["limit"] == value
    assert (found is None) == (abs(value) > 2**53 - 1)


@given(st.binary(max_size=40))
def test_any_query_is_read_or_refused(raw: bytes) -> None:
    """No query string ends in anything but values or a ``RequestError``."""
    try:
        values = read_query(raw)
    except RequestError:
        return
    assert all(isinstance(value, str) for value in values.values())


@pytest.mark.spec("13")
@pytest.mark.parametrize("code", sorted(REASONS))
def test_every_refusal_has_an_answer_of_its_own(code: str) -> None:
    """Each reason's answer carries its status; no text can end a header or leave its quotes."""
    reply = answer(
        code, realm='a"b\\c\r\nX: y', detail='x"\r\nSet-Cookie: a=b\u2028', failures=[Failure("p", "r", "e", "c")]
    )
    assert reply.status == REASONS[code].status
    for _, value in reply.headers:
        assert not set(value) & set(b"\r\n")
    challenge = dict(reply.headers).get(b"www-authenticate")
    if challenge is not None:
        assert challenge.count(b'"') == (2 if REASONS[code].oauth_error is None else 6)
        assert b"\\" not in challenge
    assert json.loads(reply.body)["code"] == code
