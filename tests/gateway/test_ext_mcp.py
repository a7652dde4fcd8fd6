# SPDX-License-Identifier: Apache-2.0
"""``ExtMcp`` as agentgateway asks it, with clients made from its protocol before a gateway's process.

agentgateway cannot run here.  What it puts into a question is as its protocol has it.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.gateway.base.settings import DeciderTerms
from arx_caps.gateway.deciders.ext_mcp import ExtMcp
from arx_verifier import Rule
from arx_verifier.enforcement.mcp.messages import META_KEY
from arx_verifier.journal.reader import read_journal
from arx_verifier.request import UNSEEN_BODY, HttpCall
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token.call_proof import CallSigner, http_fields, tool_fields
from tests.agent.live import now_ms
from tests.gateway import protos
from tests.gateway.gateway_realm import GatewayRealm, Program, gateway
from tests.servers import free_ports, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.5")]
PACKAGE: Final = "agentgateway.dev.ext_mcp"
TABLE: Final = """
[decider.tools]
kind = "ext-mcp"
listen = "127.0.0.1:{port}"
audience = "orders"
service = "tools.json"
backend = "shop"
"""
RULES: Final = (
    Rule(tool="orders.refund", args={"order_id": "o-1", "amount": {"max": 20, "optional": True}}),
    Rule(tool="orders.resources.read", args={"uri": {"glob": "file:///a/*"}}),
    Rule(tool="orders.prompts.get", args={"name": "greet"}),
)
CALL: Final = {"name": "refund", "arguments": {"order_id": "o-1", "amount": 20}}


class Site:
    """A realm and its gateway."""

    def __init__(self, folder: Path, store: str) -> None:
        self.realm, self.folder = GatewayRealm(folder, store, name="ext-mcp"), folder
        own, self.port = free_ports(2)
        self.realm.write_service("tools.json", journal="journal-tools")
        self.file = self.realm.write(TABLE.format(port=self.port), port=own)
        self.sessions = 0
        self.gateway: Program

    def caller(self) -> UnsafeCaller:
        """An agent of a session of its own; the session is ``self.session``."""
        self.sessions += 1
        self.session = "s-" + "".join("abcdefghij"[int(digit)] for digit in f"{self.sessions:016d}")
        return self.realm.caller(*RULES, session=self.session)

    def ask(self, call: str, context: dict[str, str] | None = None, **members: Any) -> Any:
        """Ask as the proxy does."""
        kind = "Request" if call == "CheckRequest" else "Response"
        asked = protos.message(f"{PACKAGE}.Mcp{kind}")(**{"service_names": ["shop"], **members})
        if context is not None:
            asked.metadata_context.update(context)
        read = protos.message(f"{PACKAGE}.Mcp{kind}Result").FromString
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            name = f"/{PACKAGE}.ExtMcp/{call}"
            send = channel.unary_unary(
                name, request_serializer=lambda m: m.SerializeToString(), response_deserializer=read
            )
            return send(asked, timeout=60)

    def request(self, method: str, params: Any = None, caller: UnsafeCaller | None = None, **members: Any) -> Any:
        """Ask about a request; ``caller`` signs it by a header that covers no body, as a list needs it."""
        headers = [{"key": ":path", "value": b"/mcp"}, *members.pop("headers", [])]
        if caller is not None:
            signed = http_fields(HttpCall("POST", b"/mcp", UNSEEN_BODY))
            token = CallSigner(caller.macaroon, "orders").sign(signed, now_ms())
            headers.append({"key": "authorization", "value": f"Bearer {token}".encode()})
        raw = params if isinstance(params, bytes) else json.dumps(params).encode()
        more = {"mcp_request": raw} if params is not None else {}
        return self.ask("CheckRequest", method=method, headers=headers, **more, **members)

    def response(self, method: str, result: Any, reference: str | None, **members: Any) -> Any:
        """Ask about a result."""
        context = None if reference is None else {"arx": reference}
        data = result if isinstance(result, bytes) else json.dumps(result).encode()
        return self.ask("CheckResponse", method=method, context=context, mcp_response=data, **members)


def in_meta(caller: UnsafeCaller, params: dict[str, Any], tool: str, args: dict[str, Any]) -> dict[str, Any]:
    """Parameters with the token of the call."""
    token = CallSigner(caller.macaroon, "orders").sign(tool_fields(f"orders.{tool}", args), now_ms())
    return {**params, "_meta": {META_KEY: token}}


def call(caller: UnsafeCaller, params: Any = CALL) -> dict[str, Any]:
    return in_meta(caller, params, params["name"], params["arguments"])


def code_of(answer: Any) -> str:
    assert answer.WhichOneof("result") == "error", answer
    return str(json.loads(answer.error.mcp_error)["code"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey: EmbeddedValkey) -> Iterator[Site]:
    """One gateway for the tests of this file."""
    folder = tmp_path_factory.mktemp("ext-mcp")
    site = Site(folder, valkey.url)
    with gateway(site.file, folder / "gateway.log") as site.gateway:
        yield site


def test_an_allowed_call_is_recorded_and_goes_on_without_its_token(site: Site) -> None:
    """With the caller in headers; a client's own ones and its credentials are removed.  It passes once."""
    params = call(site.caller())
    client = [{"key": "X-Arx-More", "value": b"1"}, {"key": "x-arx-agent", "value": b"acme/root"}]
    answer = site.request("tools/call", params, headers=client)
    assert json.loads(answer.mutated) == {**CALL, "_meta": {META_KEY: ""}}
    values = {each.key: each.value.decode() for each in answer.header_mutation.set}
    assert (values["x-arx-agent"], values["x-arx-tool"]) == ("acme/a", "orders.refund")
    assert [*answer.header_mutation.remove] == ["x-arx-more"]
    [last] = [each for each in read_journal(site.folder / "journal-tools") if each.id == values["x-arx-decision"]]
    assert (last.peer, answer.metadata["decision"]) == (None, last.id)
    assert code_of(site.request("tools/call", params)) == "replayed"


def test_a_refusal_is_one_that_a_model_reads(site: Site) -> None:
    """With the code of the refusal and the id of its record."""
    caller = site.caller()
    answer = site.request("tools/call", call(caller, {**CALL, "arguments": {"order_id": "o-1", "amount": 21}}))
    assert (answer.error.code, code_of(answer)) == (1, "argument_not_allowed")
    assert "amount" in answer.error.reason
    assert json.loads(answer.error.mcp_error)["decision"]
    assert code_of(site.request("tools/call", CALL)) == "missing_token"
    other = call(caller)
    other["arguments"] = {"order_id": "o-1", "amount": 19}
    assert code_of(site.request("tools/call", other)) == "proof_invalid"


def test_resources_and_prompts_are_judged(site: Site) -> None:
    """As the gateway's own door does."""
    caller = site.caller()
    for uri, code in (("file:///a/x", None), ("file:///b/x", "argument_not_allowed")):
        answer = site.request("resources/read", in_meta(caller, {"uri": uri}, "resources.read", {"uri": uri}))
        assert answer.WhichOneof("result") == ("error" if code else "mutated")
    prompt = site.request("prompts/get", in_meta(caller, {"name": "other"}, "prompts.get", {"name": "other"}))
    assert code_of(prompt) == "argument_not_allowed"


def test_a_signature_of_a_body_is_not_seen(site: Site) -> None:
    """The proxy shows no body, and a rule about arguments is not covered by such a signature."""
    caller = site.caller()
    assert code_of(site.request("tools/call", CALL, caller)) == "request_unseen"


@pytest.mark.parametrize(
    "params",
    [
        b'{"name": "refund", "arguments": {"order_id": "o-1", "amount": 2, "amount": 1}}',
        b'{"name": "refund", "arguments": {}, "Arguments": {"order_id": "o-2"}}',
        b'{"name": "refund", "arguments": {"order_id": "o-1", "Order_Id": "o-2"}}',
        b'{"name": "refund", "arguments": {}},"method":"ping"',
        b'{"name": "refund"},"id":2',
        b'{},"x":{}',
        b"[1]",
        b"\xff",
        b"",
        b'{"name": "refund", "arguments": {"order_id": "' + b"x" * 1024 * 1024 + b'"}}',
    ],
    ids=str,
)
def test_parameters_with_two_readings_are_refused(site: Site, params: bytes) -> None:
    """Also those that would write another message than the one that is asked about."""
    answer = site.request("tools/call", params, site.caller())
    assert (answer.error.code, code_of(answer)) == (3, "malformed_request")


@pytest.mark.parametrize("method", ["tasks/get", "tools/run", "TOOLS/CALL", "", "notifications/run", "rpc\n"])
def test_an_unknown_method_is_refused(site: Site, method: str) -> None:
    """With a good token too."""
    assert code_of(site.request(method, {}, site.caller())) == "malformed_request"


def test_a_known_notification_needs_a_token(site: Site) -> None:
    """As all that calls nothing."""
    caller = site.caller()
    assert site.request("notifications/initialized", None, caller).WhichOneof("result") == "pass"
    assert code_of(site.request("notifications/initialized")) == "missing_token"
    assert site.request("initialize", {}, caller).WhichOneof("result") == "pass"


def test_another_backend_is_refused(site: Site) -> None:
    """One audience has the tools of one server."""
    for names in ([], ["other"], ["shop", "other"]):
        assert code_of(site.request("tools/call", call(site.caller()), service_names=names)) == "malformed_request"
        assert code_of(site.response("tools/list", {"tools": []}, "x", service_names=names)) == "malformed_request"


TOOLS: Final = {"tools": [{"name": "refund", "inputSchema": {"const": 5}}, {"name": "drop"}], "nextCursor": "2"}


def test_a_list_shows_what_the_token_could_allow(site: Site) -> None:
    """By the reference that the answer to its request has; the list of another method has another one."""
    caller = site.caller()
    asked = site.request("tools/list", None, caller)
    assert asked.WhichOneof("result") == "pass"
    reference = asked.metadata["arx"]
    answer = site.response("tools/list", TOOLS, reference)
    assert answer.WhichOneof("result") == "mutated", answer
    assert json.loads(answer.mutated) == {**TOOLS, "tools": TOOLS["tools"][:1]}
    for wrong in (None, "", reference + "x"):
        assert code_of(site.response("tools/list", TOOLS, wrong)) == "malformed_request"
    assert code_of(site.response("prompts/list", {"prompts": []}, reference)) == "malformed_request"
    for result in (b'{"tools": [], "tools": []}', b'{"Tools": []}', b"[]", b'{"tools": 3}', b"{", b'{},"error":{}'):
        assert site.response("tools/list", result, reference).WhichOneof("result") == "error"
    site.realm.kill(site.session)
    until(lambda: site.response("tools/list", TOOLS, reference).WhichOneof("result") == "error")
    assert code_of(site.response("tools/list", TOOLS, reference)) == "revoked"
    assert code_of(site.request("tools/call", call(caller))) == "revoked"


def test_a_result_of_a_request_that_was_not_asked_about_is_refused(site: Site) -> None:
    """agentgateway asks about no request of these methods, but about their results."""
    for method in ("resources/subscribe", "resources/unsubscribe", "completion/complete", "tasks/get"):
        assert code_of(site.response(method, {}, None)) == "malformed_request"
    allowed = site.request("tools/call", call(site.caller()))
    assert site.response("tools/call", {"content": []}, allowed.metadata["arx"]).WhichOneof("result") == "pass"


@pytest.mark.spec("17.4")
def test_a_result_has_what_a_budget_has_left() -> None:
    """All else stays as the server wrote it; a call without a budget passes as it is; a refusal says what it lacks."""
    realm = UnsafeTestRealm("orders", costs={"orders.refund": {"usd": "0.3"}})
    terms = DeciderTerms(kind="ext-mcp", listen="127.0.0.1:1", audience="orders", backend="shop")
    decider = ExtMcp(realm.verifier, terms)

    def ask(kind: str, **members: Any) -> Any:
        asked = protos.message(f"{PACKAGE}.Mcp{kind}")(service_names=["shop"], method="tools/call", **members)
        return asyncio.run(decider.answer(f"Check{kind}", asked, "127.0.0.1"))

    def request(caller: UnsafeCaller) -> Any:
        token = caller.token("orders.refund", **CALL["arguments"])
        return ask("Request", mcp_request=json.dumps({**CALL, "_meta": {META_KEY: token}}).encode())

    def result(caller: UnsafeCaller, data: bytes) -> Any:
        allowed = request(caller)
        assert allowed.WhichOneof("result") == "mutated", allowed
        return ask("Response", mcp_response=data, metadata_context={"arx": allowed.metadata["arx"]})

    paid = realm.caller(*RULES, budget={"usd": "1.00"})
    answer = result(paid, b'{"content":[],"n":1.50,"_meta":{"own":1.0}}')
    assert answer.mutated == b'{"content":[],"n":1.50,"_meta":{"own":1.0,"dev.arx/budget":{"usd":"0.7"}}}'
    assert result(paid, b"[]").mutated == b"[]"
    assert result(paid, b"[]").mutated == b"[]"
    refused = json.loads(request(paid).error.mcp_error)
    assert (refused["code"], refused["budget"]["remaining"]) == ("insufficient_budget", "0.1")
    assert result(realm.caller(*RULES), b"{}").WhichOneof("result") == "pass"


@pytest.mark.slow
def test_an_unknown_call_is_an_error(site: Site) -> None:
    """Which the proxy takes for a denial (`failureMode: failClosed`), as it does if the decider is stopped."""
    with grpc.insecure_channel(f"127.0.0.1:{site.port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{PACKAGE}.ExtMcp/Check")(b"", timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
