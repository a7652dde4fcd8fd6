# SPDX-License-Identifier: Apache-2.0
"""External authorization as Envoy asks it, with clients made from its protocol before a gateway's process.

Envoy cannot run here.  What it puts into a question is as its documentation and its protocol have it.
"""

import asyncio
import concurrent.futures
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.gateway.base.settings import DeciderTerms
from arx_caps.gateway.deciders.decider import Decider
from arx_caps.gateway.deciders.ext_authz import ExtAuthz
from arx_caps.gateway.deciders.grpc_server import MAX_MESSAGE
from arx_caps.gateway.deciders.protos import COMPILED
from arx_verifier import Rule
from arx_verifier.journal.reader import read_journal
from arx_verifier.request import UNSEEN_BODY, HttpCall
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token.call_proof import CallSigner, http_fields
from tests.agent.live import now_ms
from tests.gateway import protos
from tests.gateway.gateway_realm import GatewayRealm, Program, gateway
from tests.servers import free_ports, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.5")]
CHECK: Final = "/envoy.service.auth.v3.Authorization/Check"
Request: Final = protos.message("envoy.service.auth.v3.CheckRequest")
Response: Final = protos.message("envoy.service.auth.v3.CheckResponse")
PARTIAL: Final = "x-envoy-auth-partial-body"
RULES: Final = (
    Rule(tool="orders.get", args={"order_id": "o-1", "limit": {"max": 5, "optional": True}}),
    Rule(tool="orders.refund", args={"order_id": "o-1", "amount": {"max": 20, "optional": True}}),
    Rule(tool="orders.upload", args={"name": "a"}, open=True),
)
TABLE: Final = """
[decider.{name}]
kind = "{kind}"
listen = "127.0.0.1:{port}"
audience = "orders"
service = "{name}.json"
{more}
[decider.{name}.routes]
"GET /orders/{{order_id}}?{{limit:int}}" = "orders.get"
"POST /orders/{{order_id}}/refund" = "orders.refund"
"POST /files/{{name}}" = "orders.upload"
"""
# The fields of Envoy's own files (envoy/service/auth/v3, envoy/config/core/v3), which the gateway reads and writes.
ENVOY: Final = {
    "CheckRequest": {"attributes": 1},
    "AttributeContext": {"source": 1, "request": 4},
    "AttributeContext.Peer": {"address": 1},
    "AttributeContext.Request": {"http": 2},
    "AttributeContext.HttpRequest": {"method": 2, "headers": 3, "path": 4, "size": 9, "body": 11, "raw_body": 12},
    "Address": {"socket_address": 1},
    "SocketAddress": {"address": 2},
    "CheckResponse": {"status": 1, "denied_response": 2, "ok_response": 3, "dynamic_metadata": 4},
    "DeniedHttpResponse": {"status": 1, "headers": 2, "body": 3},
    "OkHttpResponse": {"headers": 2, "headers_to_remove": 5, "response_headers_to_add": 6},
}
ENVOY_COMMON: Final = {
    "HeaderValueOption": {"header": 1, "append": 2},
    "HeaderValue": {"key": 1, "value": 2},
    "Status": {"code": 1},
    "HttpStatus": {"code": 1},
}


class Site:
    """A realm and its gateway, with a decider of each form."""

    def __init__(self, folder: Path, store: str) -> None:
        self.realm, self.folder = GatewayRealm(folder, store, name="ext-authz"), folder
        own, *ports = free_ports(5)
        self.ports = dict(zip(("whole", "unseen", "far", "plain"), ports, strict=True))
        kinds = {"whole": ("ext-authz", "bodies = true"), "unseen": ("ext-authz", "")}
        kinds["far"] = "ext-authz", 'hosts = ["10.0.0.0/8"]'
        kinds["plain"] = "ext-authz-http", 'bodies = true\npath_prefix = "/arx"'
        text = ""
        for name, (kind, more) in kinds.items():
            self.realm.write_service(f"{name}.json", journal=f"journal-{name}")
            text += TABLE.format(name=name, kind=kind, port=self.ports[name], more=more)
        self.file = self.realm.write(text, port=own)
        self.sessions = 0
        self.gateway: Program

    def caller(self) -> UnsafeCaller:
        """An agent of a session of its own; the session is ``self.session``."""
        self.sessions += 1
        self.session = "s-" + "".join("abcdefghij"[int(digit)] for digit in f"{self.sessions:016d}")
        return self.realm.caller(*RULES, session=self.session)

    def check(self, request: Any, name: str = "whole") -> Any:
        """Ask as the proxy does."""
        with grpc.insecure_channel(f"127.0.0.1:{self.ports[name]}") as channel:
            ask = channel.unary_unary(CHECK, request_serializer=Request.SerializeToString, response_deserializer=read)
            return ask(request, timeout=60)

    def decisions(self, name: str = "whole") -> list[Any]:
        """What is recorded."""
        return list(read_journal(self.folder / f"journal-{name}"))


def read(data: bytes) -> Any:
    return Response.FromString(data)


def described(
    caller: UnsafeCaller, method: str, target: str, body: bytes = b"", digest: bytes | None = None, **headers: str
) -> Any:
    """A question of Envoy about a call that is signed; with a body as ``with_request_body`` sends it."""
    signed = http_fields(HttpCall(method, target.encode(), digest or hashlib.sha256(body).digest()))
    token = CallSigner(caller.macaroon, "orders").sign(signed, now_ms())
    request = Request()
    http = request.attributes.request.http
    http.method, http.path, http.size, http.raw_body = method, target, len(body), body
    http.host, http.scheme, http.protocol = "shop", "https", "HTTP/2"
    request.attributes.source.address.socket_address.address = "192.0.2.9"
    http.headers.update({":authority": "shop", ":path": target, ":method": method, "authorization": f"Bearer {token}"})
    if body:
        http.headers.update({"content-type": "application/json", "content-length": str(len(body)), PARTIAL: "false"})
    http.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return request


def code_of(answer: Any) -> str:
    assert answer.status.code != 0
    return str({each.header.key: each.header.value for each in answer.denied_response.headers}["x-arx-reason"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey: EmbeddedValkey) -> Iterator[Site]:
    """One gateway for the tests of this file."""
    folder = tmp_path_factory.mktemp("ext-authz")
    site = Site(folder, valkey.url)
    with gateway(site.file, folder / "gateway.log") as site.gateway:
        yield site


def test_the_original_files_are_those_of_the_hashes_and_the_compiled_form_is_theirs() -> None:
    """``python -m tests.gateway.protos`` writes it."""
    lines = [line.split() for line in (protos.FOLDER / "SHA256SUMS").read_text().splitlines()]
    found = {name: hashlib.sha256((protos.FOLDER / name).read_bytes()).hexdigest() for _, name in lines}
    assert found == {name: digest for digest, name in lines}
    assert {path.name for path in protos.FOLDER.iterdir()} == {*found, "SHA256SUMS"}
    kept = type(protos.compiled()).FromString(COMPILED.read_bytes())
    own = "ext_authz.proto", "ext_mcp.proto", "shared_envoy.proto"
    assert [file for file in kept.file if file.name in own] == [f for f in protos.compiled().file if f.name in own]


def test_the_fields_have_the_numbers_of_envoy() -> None:
    """The files are another project's form of it."""
    for package, names in (("auth", ENVOY), ("common", ENVOY_COMMON)):
        for name, fields in names.items():
            found = protos.message(f"envoy.service.{package}.v3.{name}").DESCRIPTOR.fields_by_name
            assert {field: found[field].number for field in fields} == fields


def test_an_allowed_call_is_recorded_and_names_its_caller(site: Site) -> None:
    """What a client wrote in the place of these headers is replaced or removed, and so is its credential."""
    asked = described(site.caller(), "GET", "/orders/o-1?limit=5", x_arx_agent="acme/root", x_arx_more="1")
    asked.attributes.request.http.headers["x_arx_agent"] = "acme/root"
    answer = site.check(asked)
    assert (answer.status.code, answer.WhichOneof("http_response")) == (0, "ok_response")
    values = {each.header.key: each.header.value for each in answer.ok_response.headers}
    assert (values["x-arx-agent"], values["x-arx-session"], values["x-arx-tool"]) == (
        "acme/a",
        site.session,
        "orders.get",
    )
    assert all(not each.append.value and each.HasField("append") for each in answer.ok_response.headers)
    removed = [*answer.ok_response.headers_to_remove]
    assert removed == ["authorization", "x-arx-more", "x_arx_agent"]
    assert not set(removed) & set(values)
    [decision] = [each for each in site.decisions() if each.id == values["x-arx-decision"]]
    assert (decision.peer, answer.dynamic_metadata["decision"]) == ("192.0.2.9", decision.id)
    assert code_of(site.check(asked)) == "replayed"


def test_a_refusal_is_an_answer_to_the_client(site: Site) -> None:
    """With status, challenge and reason; it may not be kept."""
    refused = site.check(described(site.caller(), "GET", "/orders/o-2"))
    assert (refused.status.code, refused.denied_response.status.code) == (7, 403)
    assert code_of(refused) == "argument_not_allowed"
    bare = described(site.caller(), "GET", "/orders/o-1")
    del bare.attributes.request.http.headers["authorization"]
    answer = site.check(bare)
    assert (answer.status.code, answer.denied_response.status.code, code_of(answer)) == (16, 401, "missing_token")
    values = {each.header.key: each.header.value for each in answer.denied_response.headers}
    assert values["www-authenticate"].startswith("Bearer realm=")
    assert values["cache-control"] == "no-store"
    assert json.loads(answer.denied_response.body)["code"] == "missing_token"


@pytest.mark.spec("17.4")
def test_an_answer_says_what_a_budget_has_left() -> None:
    """As a header of the answer to the client, and none of the request to the service."""
    realm = UnsafeTestRealm("orders", costs={"orders.get": {"usd": "0.3"}})
    terms = DeciderTerms(kind="ext-authz", listen="127.0.0.1:1", audience="orders", bodies=True)
    asked = ExtAuthz(Decider(realm.verifier, {"GET /orders/{order_id}": "orders.get"}, ()), terms)

    def left(caller: UnsafeCaller) -> dict[str, str]:
        answer = asyncio.run(asked.answer("Check", described(caller, "GET", "/orders/o-1"), "127.0.0.1"))
        assert answer.status.code == 0, answer
        assert "arx-budget" not in {each.header.key for each in answer.ok_response.headers}
        return {each.header.key: each.header.value for each in answer.ok_response.response_headers_to_add}

    assert left(realm.caller(*RULES, budget={"usd": "1.00"})) == {"arx-budget": 'usd="0.7"'}
    assert left(realm.caller(*RULES)) == {}


def test_a_kill_refuses_the_next_call(site: Site) -> None:
    """A decision is not kept."""
    caller = site.caller()
    assert site.check(described(caller, "GET", "/orders/o-1")).status.code == 0
    site.realm.kill(site.session)
    until(lambda: site.check(described(caller, "GET", "/orders/o-1")).status.code != 0)
    assert code_of(site.check(described(caller, "GET", "/orders/o-1"))) == "revoked"


def test_a_whole_body_is_judged_and_checked(site: Site) -> None:
    """By the rules and by the signature."""
    caller = site.caller()
    assert site.check(described(caller, "POST", "/orders/o-1/refund", b'{"amount": 20}')).status.code == 0
    over = site.check(described(caller, "POST", "/orders/o-1/refund", b'{"amount": 21}'))
    assert code_of(over) == "argument_not_allowed"
    other = described(caller, "POST", "/orders/o-1/refund", b'{"amount": 20}')
    other.attributes.request.http.raw_body = b'{"amount": 19}'
    assert code_of(site.check(other)) == "proof_invalid"
    twice = described(caller, "POST", "/orders/o-1/refund", b'{"amount": 2, "amount": 1}')
    assert code_of(site.check(twice)) == "malformed_request"
    assert site.check(described(caller, "POST", "/orders/o-1/refund")).status.code == 0


def test_a_part_of_a_body_is_refused(site: Site) -> None:
    """Whatever says that it is one; also a text, in which bytes are replaced."""
    body = b'{"amount": 20}'
    changes: list[dict[str, Any]] = [{"size": len(body) + 1}, {"size": -1}, {"body": "{}"}]
    for change in changes:
        asked = described(site.caller(), "POST", "/orders/o-1/refund", body)
        for name, value in change.items():
            setattr(asked.attributes.request.http, name, value)
        answer = site.check(asked)
        assert (answer.denied_response.status.code, code_of(answer)) == (400, "malformed_request"), change
    for value in ("true", "false,true", ""):
        asked = described(site.caller(), "POST", "/orders/o-1/refund", body)
        asked.attributes.request.http.headers[PARTIAL] = value
        assert code_of(site.check(asked)) == "malformed_request"


@pytest.mark.parametrize(
    "more", [{"content-length": "14"}, {"content-length": "0,14"}, {"transfer-encoding": "chunked"}]
)
def test_a_body_that_the_proxy_does_not_send_is_not_guessed(site: Site, more: dict[str, str]) -> None:
    """Although the file says that it sends each; what a client writes about it is no body."""
    asked = described(site.caller(), "POST", "/orders/o-1/refund", **{PARTIAL: "false"})
    asked.attributes.request.http.headers.update(more)
    assert code_of(site.check(asked)) == "request_unseen"


def test_without_bodies_only_what_allows_any_is_allowed(site: Site) -> None:
    """A decider whose proxy sends none: a client cannot say that there is none."""
    caller = site.caller()
    assert site.check(described(caller, "GET", "/orders/o-1"), "unseen").status.code == 0
    for headers in ({}, {PARTIAL: "false"}, {PARTIAL: "true"}, {"content-length": "0"}, {"x-arx-body": "none"}):
        asked = described(caller, "POST", "/orders/o-1/refund", **headers)
        assert code_of(site.check(asked, "unseen")) == "request_unseen"
    long = described(caller, "GET", "/orders/o-1")
    long.attributes.request.http.headers["content-length"] = "3"
    assert code_of(site.check(long, "unseen")) == "request_unseen"
    signed = described(caller, "POST", "/files/a", digest=UNSEEN_BODY)
    assert site.check(signed, "unseen").status.code == 0


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(
            ("path", "*"),
            ("path", "http://shop/orders/o-1"),
            ("path", ""),
            ("path", "//orders/o-1"),
            ("path", "/orders/é"),
        ),
        *(("method", ""), ("method", "G ET"), ("path", "/orders/o-1#x"), ("path", "/orders/%2e%2e/orders/o-1")),
    ],
)
def test_a_target_with_two_readings_is_refused(site: Site, member: str, value: str) -> None:
    """The upstream could run another one than the rules saw."""
    asked = described(site.caller(), "GET", "/orders/o-1" if member == "method" else value)
    setattr(asked.attributes.request.http, member, value)
    assert code_of(site.check(asked)) == "malformed_request"


@pytest.mark.parametrize("header", ["upgrade", "x-http-method-override", "x-original-url"])
def test_a_header_that_makes_another_request_is_refused(site: Site, header: str) -> None:
    """A framework behind the proxy may read it."""
    asked = described(site.caller(), "GET", "/orders/o-1", **{header: "websocket"})
    assert code_of(site.check(asked)) == "malformed_request"


def test_the_client_is_who_the_proxy_says(site: Site) -> None:
    """And not who the client says, also if it is on the proxy's machine."""
    asked = described(site.caller(), "GET", "/orders/o-1", x_forwarded_for="198.51.100.7")
    asked.attributes.source.address.socket_address.address = "127.0.0.1"
    assert site.check(asked).status.code == 0
    assert site.decisions()[-1].peer == "127.0.0.1"


def test_a_stranger_may_not_ask(site: Site) -> None:
    """Not with a good call either."""
    answer = site.check(described(site.caller(), "GET", "/orders/o-1"), "far")
    assert (answer.status.code, code_of(answer)) == (7, "malformed_request")
    assert "hosts" in answer.denied_response.body


def test_two_credentials_are_none(site: Site) -> None:
    """The proxy joins headers of one name; and a question without headers has none, as with ``encode_raw_headers``."""
    asked = described(site.caller(), "GET", "/orders/o-1")
    headers = asked.attributes.request.http.headers
    headers["authorization"] = f"{headers['authorization']},{headers['authorization']}"
    assert site.check(asked).denied_response.status.code == 401
    asked.attributes.request.http.headers.clear()
    assert code_of(site.check(asked)) == "missing_token"
    assert code_of(site.check(Request())) == "malformed_request"


def test_an_unknown_call_and_a_message_that_is_too_long_are_errors(site: Site) -> None:
    """Which the proxy takes for a denial."""
    with grpc.insecure_channel(f"127.0.0.1:{site.ports['whole']}") as channel:
        for path, code in (
            (CHECK.replace("v3", "v2"), grpc.StatusCode.UNIMPLEMENTED),
            (CHECK.replace("Check", "Allow"), grpc.StatusCode.UNIMPLEMENTED),
            (CHECK, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            data = b"\0" * (MAX_MESSAGE + 1) if path == CHECK else b""
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(data, timeout=60)
            assert caught.value.code() == code
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(CHECK)(b"no message", timeout=60)
    assert httpx.get(f"http://127.0.0.1:{site.ports['plain']}/orders/o-1").status_code == 400
    assert site.check(described(site.caller(), "GET", "/orders/o-1")).status.code == 0


def test_many_ask_at_once(site: Site) -> None:
    """Each gets the answer about its own call, and one call passes once."""
    caller = site.caller()
    same = described(caller, "GET", "/orders/o-1")
    asked = [described(caller, "GET", f"/orders/o-{1 + number % 2}") for number in range(32)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        codes = [answer.status.code for answer in pool.map(site.check, [*asked, *([same] * 8)])]
    assert codes[:32] == [0, 7] * 16
    assert sorted(codes[32:]) == [0, *([16] * 7)]


def http(site: Site, caller: UnsafeCaller, method: str, target: str, body: bytes = b"", **more: str) -> httpx.Response:
    """Ask as Envoy's HTTP form does."""
    headers = dict(described(caller, method, target, body).attributes.request.http.headers)
    kept = {name: headers[name] for name in ("authorization", "content-type") if name in headers} | {
        name.replace("_", "-"): text for name, text in more.items()
    }
    return httpx.request(method, f"http://127.0.0.1:{site.ports['plain']}/arx{target}", content=body, headers=kept)


def test_the_http_form_decides_likewise(site: Site) -> None:
    """It repeats the client's request; the path has a prefix."""
    caller = site.caller()
    answer = http(site, caller, "GET", "/orders/o-1?limit=5", x_arx_more="1")
    assert (answer.status_code, answer.headers["x-arx-agent"]) == (200, "acme/a")
    assert answer.headers["x-envoy-auth-headers-to-remove"] == "authorization, x-arx-more"
    assert http(site, caller, "POST", "/orders/o-1/refund", b'{"amount": 20}').status_code == 200
    refused = http(site, caller, "POST", "/orders/o-1/refund", b'{"amount": 21}')
    assert (refused.status_code, refused.headers["cache-control"]) == (403, "no-store")
    part = http(site, caller, "POST", "/orders/o-1/refund", b'{"amount": 20}', **{PARTIAL: "true"})
    assert (part.status_code, part.headers["x-arx-reason"]) == (400, "malformed_request")
    assert http(site, caller, "HEAD", "/orders/o-1").status_code == 200
    assert http(site, caller, "GET", "/orders/o-2").headers["x-arx-reason"] == "argument_not_allowed"


@pytest.mark.slow
def test_a_stopped_decider_answers_nothing(site: Site, tmp_path: Path) -> None:
    """Which is a denial for a proxy that fails closed; a second gateway cannot take its address."""
    taken = re.escape(f"cannot listen at 127.0.0.1:{site.ports['whole']}")
    with pytest.raises(AssertionError, match=taken), gateway(_moved(site), tmp_path / "second.log"):
        pass
    site.gateway.kill()
    site.gateway.wait()
    with pytest.raises(grpc.RpcError) as caught:
        site.check(described(site.caller(), "GET", "/orders/o-1"))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def _moved(site: Site) -> Path:
    """A file of another gateway, with the address of one decider."""
    [own] = free_ports(1)
    site.realm.write_service("second.json", journal="journal-second")
    text = TABLE.format(name="second", kind="ext-authz", port=site.ports["whole"], more="")
    return site.realm.write(text, port=own, file="second.toml")
