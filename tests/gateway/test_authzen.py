# SPDX-License-Identifier: Apache-2.0
"""AuthZEN: a question with a credential is decided on as a call, and what it does not show is not guessed.

``tests/gateway/test_authzen_process.py`` asks a running gateway.
"""

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_caps.gateway.base.settings import ActionTerms, DeciderTerms, read_settings
from arx_caps.gateway.deciders.authzen import MAX_EVALUATIONS, AuthZen
from arx_verifier import Constraint, Rule
from arx_verifier.enforcement.mcp.messages import META_KEY
from arx_verifier.errors import SettingsError
from arx_verifier.request import UNSEEN_BODY, HttpCall
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token.call_proof import CallSigner, http_fields, tool_fields
from tests.agent.live import now_ms
from tests.house.pages import ROOT, blocks

pytestmark = pytest.mark.spec("8.6")
SECRET = "a-secret-of-the-pep-that-is-long-enough"
ONE, SEVERAL = "/access/v1/evaluation", "/access/v1/evaluations"
REFUND = {"order": "resource.id", "amount": "action.properties.amount", "desk": "subject.properties.desk.id"}
ACTIONS = {
    "read order": ActionTerms(tool="orders.get", args={"order": "resource.id"}),
    "refund order": ActionTerms(tool="orders.refund", args=REFUND),
}
ROUTES = {
    "GET /orders/{order}?{limit:int}": "orders.get",
    "POST /orders/{order}/refund": "orders.refund",
    "POST /any": "orders.any",
}
RULES: tuple[Rule, ...] = (
    Rule(tool="orders.get", args={"order": "o-1"}),
    Rule(
        tool="orders.refund",
        args={"order": "o-1", "amount": Constraint(max=20), "desk": Constraint(equal="d", optional=True)},
    ),
    Rule(tool="orders.search", args={"text": "abc"}),
    Rule(tool="orders.resources.read", args={"uri": "file:///a"}),
    Rule(tool="orders.any"),
)
ME = {"type": "agent", "id": "test/agent"}
READ = {"subject": ME, "action": {"name": "read"}, "resource": {"type": "order", "id": "o-1"}}

Object = dict[str, Any]


class Asked:
    """A decider of AuthZEN, and its one PEP."""

    def __init__(self, url: str = "http://127.0.0.1:9", **terms: Any) -> None:
        self.realm = UnsafeTestRealm("orders")
        self.caller = self.realm.caller(*RULES)
        os.environ["PEP_SECRET"] = SECRET
        made = DeciderTerms(
            kind="authzen",
            listen="",
            audience="orders",
            url=url,
            peps={"pep": "env:PEP_SECRET"},
            actions=ACTIONS,
            **terms,
        )
        self.door = AuthZen(self.realm.verifier, made, ROUTES, Path(), "decider.pdp")

    def send(self, method: str, path: str, *, client: str = "127.0.0.1", **more: Any) -> httpx.Response:
        """Send a request as it is."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.door, client=(client, 9))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9") as session:
                return await session.request(method, path, **more)

        return asyncio.run(send())

    def ask(self, question: object, path: str = ONE, **headers: str) -> httpx.Response:
        """Ask as the enrolled PEP does."""
        sent = {"Authorization": f"Bearer {SECRET}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return self.send("POST", path, json=question, headers=sent)

    def answer(self, question: object, path: str = ONE) -> Object:
        """The answer to a question that has one."""
        response = self.ask(question, path)
        assert response.status_code == 200, response.text
        found: Object = response.json()
        return found

    def reason(self, question: object) -> str:
        """Why a question is denied."""
        answer = self.answer(question)
        assert answer["decision"] is False
        return str(answer["context"]["reason"])

    def signed(self, tool: str, args: Object, question: Object) -> Object:
        """A question with the signature of a call."""
        return {**question, "context": {"credential": self.caller.token(tool, **args)}}

    def read(self, **more: Any) -> Object:
        return self.signed("orders.get", {"order": "o-1"}, READ | more)


def message(method: str, kind: str, name: str, **properties: Any) -> Object:
    action = {"name": method} | ({"properties": properties} if properties else {})
    return {"subject": ME, "action": action, "resource": {"type": kind, "id": name}}


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_a_call_is_decided_on_and_recorded(asked: Asked) -> None:
    """With who calls, and the id of the record; the signature works once."""
    question = asked.read()
    answer = asked.answer(question)
    [decision] = asked.realm.decisions.decisions
    context = answer.pop("context")
    assert answer == {"decision": True}
    assert context.pop("session").startswith("s-")
    assert context.pop("task").startswith("t-")
    assert context == {
        "evaluation_id": decision.id,
        "agent": "test/agent",
        "tool": "orders.get",
        "assurance": "bearer",
    }
    assert asked.reason(question) == "replayed"


def test_a_denial_says_what_was_expected(asked: Asked) -> None:
    """It is an answer and no error; it names its record."""
    question = asked.signed("orders.get", {"order": "o-2"}, READ | {"resource": {"type": "order", "id": "o-2"}})
    context = asked.answer(question)["context"]
    assert context["reason"] == "argument_not_allowed"
    assert context["evaluation_id"] == asked.realm.decisions.decisions[-1].id
    assert (context["failures"][0]["came"], "o-1" in context["failures"][0]["expected"]) == ('"o-2"', True)


def test_arguments_come_from_the_named_members_alone(asked: Asked) -> None:
    """Also nested ones; others are ignored, and a missing one is no argument."""
    order = {"type": "order", "id": "o-1", "properties": {"amount": 5, "status": "open"}}
    action: Object = {"name": "refund", "properties": {"amount": 20, "order": "o-9"}}
    question = {
        "subject": ME | {"properties": {"role": "x"}},
        "action": action,
        "resource": order,
        "amount": 1,
        "foo": {},
    }
    assert asked.answer(asked.signed("orders.refund", {"order": "o-1", "amount": 20}, question))["decision"] is True
    question["subject"] = ME | {"properties": {"desk": {"id": "d"}}}
    desk = {"order": "o-1", "amount": 20, "desk": "d"}
    assert asked.answer(asked.signed("orders.refund", desk, question))["decision"] is True
    # The signature is of another amount than the PEP has.
    question["action"] = {"name": "refund", "properties": {"amount": 19}}
    assert asked.reason(asked.signed("orders.refund", desk, question)) == "proof_invalid"


def test_a_kill_denies_the_next_question(asked: Asked) -> None:
    """No answer is kept."""
    assert asked.answer(asked.read())["decision"] is True
    asked.realm.epochs.kill("agent:test/agent")
    assert asked.reason(asked.read()) == "revoked"
    assert asked.ask(asked.read()).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "subject",
    [
        {"type": "agent", "id": "test/other"},
        {"type": "agent", "id": "test/Agent"},
        {"type": "user", "id": "test/agent"},
        {"type": "user", "id": "ann"},
        {"type": "identity", "id": "test/agent"},
        {"type": "robot", "id": "test/agent"},
        {"type": "", "id": ""},
    ],
)
def test_another_subject_than_that_of_the_credential_is_denied(asked: Asked, subject: Object) -> None:
    """And the call is not used up."""
    question = asked.read()
    assert asked.reason(question | {"subject": subject}) == "malformed_request"
    assert asked.answer(question)["decision"] is True


def test_a_subject_is_the_agent_or_the_person_of_the_credential() -> None:
    """By the type: what COAZ sends, a person, and what the file puts before an id."""
    asked = Asked(subjects={"service": "test/"})
    asked.caller = asked.realm.caller(*RULES, subject=("https://idp.example", "ann"))
    for kind, name in (
        ("identity", "agent:test/agent"),
        ("user", "ann"),
        ("service", "agent"),
        ("agent", "test/agent"),
    ):
        assert asked.answer(asked.read(subject={"type": kind, "id": name}))["decision"] is True
    assert asked.answer(asked.read())["context"]["subject"] == "ann"


def test_messages_of_mcp_are_mapped_as_coaz_does(asked: Asked) -> None:
    """A tool with its arguments, a resource, and a message that calls none."""
    search = message("tools/call", "tool", "search", arguments={"text": "abc"})
    answer = asked.answer(asked.signed("orders.search", {"text": "abc"}, search))
    assert answer["context"]["tool"] == "orders.search"
    file = message("resources/read", "resource", "file:///a")
    assert asked.answer(asked.signed("orders.resources.read", {"uri": "file:///a"}, file))["decision"] is True
    other = message("resources/read", "resource", "file:///b")
    assert asked.reason(asked.signed("orders.resources.read", {"uri": "file:///b"}, other)) == "argument_not_allowed"
    tools = asked.signed("", {"method": "tools/list"}, message("tools/list", "mcp_server", "https://mcp.example"))
    assert asked.answer(tools) == {"decision": True}
    assert asked.reason(tools) == "replayed"
    assert asked.reason(asked.read() | message("tools/list", "mcp_server", "x")) == "proof_invalid"


@pytest.mark.parametrize("pair", [("tools/call", "order"), ("tasks/get", "task"), ("read", "tool"), ("", "")])
def test_an_action_without_a_tool_is_denied(asked: Asked, pair: tuple[str, str]) -> None:
    """Also a known action on another type of resource, whatever the credential."""
    assert asked.reason(asked.read() | message(*pair, "search")) == "tool_not_allowed"


def test_arguments_that_are_not_shown_are_not_guessed(asked: Asked) -> None:
    """The default mapping of COAZ has the name of the tool alone."""
    search = message("tools/call", "tool", "search")
    assert asked.reason(asked.signed("orders.search", {"text": "abc"}, search)) == "request_unseen"
    assert asked.reason(asked.signed("orders.search", {}, search)) == "request_unseen"
    anything = message("tools/call", "tool", "any")
    assert asked.reason(asked.signed("orders.any", {}, anything)) == "request_unseen"


def test_a_request_of_http_is_decided_on_by_its_route(asked: Asked) -> None:
    """Its signature covers method, path and query as sent; a body is not seen, and not guessed."""

    def about(method: str, target: str, body: bytes | None = b"") -> Object:
        digest = UNSEEN_BODY if body is None else hashlib.sha256(body).digest()
        question = message(method, "http", target)
        fields = http_fields(HttpCall(method, target, digest))
        return question | {"context": {"credential": by_hand(asked.caller, fields)}}

    good = about("GET", "/orders/o-1")
    assert asked.reason(good | {"resource": {"type": "http", "id": "/orders/o-2"}}) == "proof_invalid"
    assert asked.reason(good | {"action": {"name": "HEAD"}}) == "proof_invalid"
    assert asked.answer(good)["context"]["tool"] == "orders.get"
    assert asked.reason(about("GET", "/orders/o-2")) == "argument_not_allowed"
    assert asked.reason(about("GET", "/orders/o-1?limit=5")) == "argument_not_allowed"
    assert asked.reason(about("POST", "/orders/o-1/refund", b'{"amount":1}')) == "request_unseen"
    assert asked.reason(about("POST", "/orders/o-1/refund", None)) == "request_unseen"
    assert asked.answer(about("POST", "/any", None))["decision"] is True
    assert asked.reason(about("DELETE", "/orders/o-1", None)) == "tool_not_allowed"
    for target in ("//orders/o-1", "/x/../orders/o-1", "/orders/o-1#x", "http://a/orders/o-1", "/orders/o 1", ""):
        assert asked.reason(about("GET", target)) == "malformed_request", target
    for target in ("/orders/o-\xe9", "/orders/o-1\n"):
        assert asked.reason(good | {"resource": {"type": "http", "id": target}}) == "malformed_request"


def by_hand(caller: UnsafeCaller, fields: bytes) -> str:
    return CallSigner(caller.macaroon, "orders").sign(fields, now_ms())


def test_a_holder_may_sign_that_its_arguments_are_not_shown(asked: Asked) -> None:
    """That is no signature of an HTTP request, and only of this tool; the rule must allow any arguments."""

    def about(tool: str, signed: str, method: str = "AUTHZEN") -> Object:
        fields = http_fields(HttpCall(method, signed, UNSEEN_BODY))
        question = message("tools/call", "tool", tool)
        return question | {"context": {"credential": by_hand(asked.caller, fields)}}

    assert asked.answer(about("any", "orders.any"))["decision"] is True
    assert asked.reason(about("any", "orders.any", "POST")) == "request_unseen"
    assert asked.reason(about("any", "orders.search")) == "request_unseen"
    assert asked.reason(about("search", "orders.search")) == "request_unseen"


def test_the_signature_of_an_http_request_is_none_of_a_tool(asked: Asked) -> None:
    """And that of a tool none of another one with the same arguments."""
    signed = by_hand(asked.caller, http_fields(HttpCall("POST", ONE, UNSEEN_BODY)))
    assert asked.reason(READ | {"context": {"credential": signed}}) == "proof_invalid"
    other = by_hand(asked.caller, tool_fields("orders.refund", {"order": "o-1"}))
    assert asked.reason(READ | {"context": {"credential": other}}) == "proof_invalid"


@pytest.mark.parametrize("credential", [None, "", 7, {}, "arx1_x", "a.b.c"])
def test_a_credential_of_another_form_is_denied(asked: Asked, credential: object) -> None:
    """It is no text, no token, or an access token where none is taken."""
    assert asked.reason(READ | {"context": {"credential": credential}}) == "malformed"
    assert (
        asked.reason(READ | {"context": {"authorization": asked.caller.token("orders.get", order="o-1")}})
        == "missing_token"
    )


def test_a_token_of_a_task_or_of_another_realm_is_denied(asked: Asked) -> None:
    """The first lacks the signature of the call."""
    whole = asked.caller.macaroon.encode()
    assert asked.reason(READ | {"context": {"credential": whole}}) == "proof_missing"
    stranger = UnsafeTestRealm("orders").caller(*RULES).token("orders.get", order="o-1")
    assert asked.reason(READ | {"context": {"credential": stranger}}) == "bad_signature"
    assert [each.code for each in asked.realm.decisions.decisions] == ["proof_missing", "counted"]


def test_only_an_enrolled_pep_is_answered(asked: Asked) -> None:
    """A stranger learns no path; a credential of a caller is no secret of a PEP."""
    question = asked.read()
    token = question["context"]["credential"]
    for value in (
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {SECRET}x",
        f"Bearer {SECRET[:-1]}",
        f"Basic {SECRET}",
        f"Bearer {token}",
    ):
        for path in (ONE, SEVERAL, "/x"):
            answer = asked.send("POST", path, json=question, headers={"Authorization": value, "X-Request-ID": "r"})
            assert (answer.status_code, answer.headers["x-request-id"]) == (401, "r")
            assert answer.headers["www-authenticate"].startswith("Bearer realm=")
            assert SECRET not in answer.text
    twice = [("Authorization", f"Bearer {SECRET}"), ("Authorization", f"Bearer {SECRET}")]
    assert asked.send("POST", ONE, json=question, headers=twice).status_code == 401
    assert asked.send("POST", ONE, json=question, client="192.0.2.1").status_code == 403
    assert asked.realm.decisions.decisions == []
    assert asked.answer(question)["decision"] is True


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        *[(body, "application/json") for body in (b"", b"[]", b"{", b'"x"', b"\xff{}", b"{}")],
        (b'{"subject":{"type":"agent","id":"a"},"subject":{"type":"agent","id":"b"}}', "application/json"),
        *[(b"{}", kind) for kind in ("text/plain", "application/json-patch+json", "")],
    ],
)
@pytest.mark.parametrize("path", [ONE, SEVERAL])
def test_a_body_that_is_no_question_is_an_error(asked: Asked, body: bytes, kind: str, path: str) -> None:
    """With a text for the PEP, and the id of its request."""
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": kind, "X-Request-ID": "r-1"}
    answer = asked.send("POST", path, content=body, headers=headers)
    assert (answer.status_code, answer.headers["x-request-id"], bool(answer.text)) == (400, "r-1", True)


@pytest.mark.parametrize("name", ["subject", "action", "resource"])
def test_a_question_without_a_member_is_an_error(asked: Asked, name: str) -> None:
    """Or with one of another type; a member of no meaning is ignored."""
    whole = asked.read()
    wrong: list[object] = [None, "x", [], {}, {"type": "order"}, {"id": "o-1"}, {"name": 7}, {"type": 1, "id": "o-1"}]
    for each in [*wrong, whole[name] | {"properties": []}, whole[name] | {"properties": None}]:
        assert asked.ask(whole | {name: each}).status_code == 400
    del whole[name]
    assert asked.ask(whole).status_code == 400
    assert asked.ask(asked.read() | {"context": "x"}).status_code == 400
    assert asked.ask(asked.read() | {"future": 1, "evaluations": "x"}).json()["decision"] is True


def test_other_paths_and_methods_are_errors(asked: Asked) -> None:
    """And a body that is too long."""
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    assert asked.send("POST", "/access/v1/search/subject", json={}, headers=headers).status_code == 404
    assert asked.send("GET", ONE, headers=headers).status_code == 405
    long = b'{"subject":"' + b"a" * 1024 * 1024 + b'"}'
    assert asked.send("POST", ONE, content=long, headers=headers).status_code == 413


def test_a_request_keeps_its_id(asked: Asked) -> None:
    """In the answer and in the record; a long one only in the answer."""
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    answer = asked.ask(asked.read(), X_Request_ID="bfe9-1", traceparent=trace)
    assert (answer.headers["x-request-id"], answer.headers["content-type"]) == ("bfe9-1", "application/json")
    assert "x-request-id" not in asked.ask(asked.read()).headers
    assert asked.ask(asked.read(), X_Request_ID="x" * 500).headers["x-request-id"] == "x" * 500
    records = asked.realm.decisions.decisions
    assert [each.request_id for each in records] == ["bfe9-1", None, None]
    assert records[0].traceparent == trace


def test_a_pep_says_the_address_of_the_caller(asked: Asked) -> None:
    """What is none is not recorded."""
    for value, recorded in (("192.0.2.7", "192.0.2.7"), ("x", None), (7, None)):
        question = asked.read()
        question["context"]["ip"] = value
        assert asked.answer(question)["decision"] is True
        assert asked.realm.decisions.decisions[-1].peer == recorded


def batch(asked: Asked, semantic: str | None, *names: str) -> list[Any]:
    """The decisions on several reads, of which only `o-1` is allowed."""
    items = [
        asked.signed("orders.get", {"order": name}, {"resource": {"type": "order", "id": name}}) if name else {}
        for name in names
    ]
    question = {"subject": ME, "action": READ["action"], "evaluations": items}
    if semantic:
        question["options"] = {"evaluations_semantic": semantic, "other": 1}
    answer = asked.answer(question, SEVERAL)
    assert answer.keys() == {"evaluations"}
    return [each["decision"] for each in answer["evaluations"]]


def test_a_batch_has_a_record_of_each(asked: Asked) -> None:
    """In the order of the question; one that is malformed is denied by itself."""
    assert batch(asked, None, "o-1", "o-2", "o-1") == [True, False, True]
    assert [each.code for each in asked.realm.decisions.decisions] == ["ok", "argument_not_allowed", "ok"]
    assert batch(asked, "execute_all", "o-1", "", "o-1") == [True, False, True]


def test_a_batch_ends_as_the_pep_says(asked: Asked) -> None:
    """What comes after the end is not decided on, and stays unused."""
    assert batch(asked, "deny_on_first_deny", "o-1", "o-2", "o-1") == [True, False]
    assert batch(asked, "deny_on_first_deny", "o-1", "", "o-1") == [True, False]
    assert batch(asked, "permit_on_first_permit", "o-2", "o-1", "o-1") == [False, True]
    codes = [each.code for each in asked.realm.decisions.decisions]
    assert codes == ["ok", "argument_not_allowed", "ok", "counted", "argument_not_allowed", "ok"]


def test_a_batch_replaces_a_default_whole(asked: Asked) -> None:
    """Nothing of a default is merged into an entity, nor the credential into another context."""
    good = asked.read()
    defaults = good | {"action": {"name": "refund", "properties": {"amount": 1}}}
    answers = asked.answer(defaults | {"evaluations": [{"action": {"name": "read"}, "context": {}}]}, SEVERAL)
    assert answers["evaluations"][0]["context"]["reason"] == "missing_token"
    answers = asked.answer(defaults | {"evaluations": [{"action": {"name": "read"}}]}, SEVERAL)
    assert answers["evaluations"][0]["decision"] is True
    assert asked.answer(asked.read() | {"evaluations": []}, SEVERAL)["decision"] is True
    assert asked.answer(asked.read(), SEVERAL)["decision"] is True
    # A call in the default works once.
    answers = asked.answer(asked.read() | {"evaluations": [{}, {}]}, SEVERAL)["evaluations"]
    assert [each["decision"] for each in answers] == [True, False]


@pytest.mark.parametrize(
    "more",
    [
        {"evaluations": {}},
        {"evaluations": [1]},
        {"evaluations": [{}] * (MAX_EVALUATIONS + 1)},
        {"evaluations": [{}], "options": []},
        {"evaluations": [{}], "options": {"evaluations_semantic": "first"}},
        {"evaluations": [{}], "options": {"evaluations_semantic": None}},
        {"evaluations": [{}], "options": {"evaluations_semantic": []}},
        {"evaluations": [{}], "subject": "x"},
    ],
)
def test_a_batch_that_is_wrong_as_a_whole_is_an_error(asked: Asked, more: Object) -> None:
    """Nothing of it is decided on."""
    assert asked.ask(READ | more, SEVERAL).status_code == 400
    assert asked.realm.decisions.decisions == []


@pytest.mark.parametrize("path", ["", "/tenant1"])
def test_the_metadata_name_the_decider(path: str) -> None:
    """Without a secret, at the place that its URL says; and its paths are those that are served."""
    asked = Asked(f"https://pdp.example{path}")
    answer = asked.send("GET", f"/.well-known/authzen-configuration{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {
        "policy_decision_point": f"https://pdp.example{path}",
        "access_evaluation_endpoint": f"https://pdp.example{path}{ONE}",
        "access_evaluations_endpoint": f"https://pdp.example{path}{SEVERAL}",
    }
    assert asked.ask(asked.read(), path + ONE).status_code == 200
    assert asked.send("GET", "/.well-known/authzen-configuration/other").status_code == 401


def test_a_short_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It could be guessed."""
    terms = DeciderTerms(kind="authzen", listen="", audience="orders", url="https://a", peps={"p": "env:SHORT"})
    monkeypatch.setenv("SHORT", "x" * 31)
    with pytest.raises(SettingsError, match="at least 32") as raised:
        AuthZen(UnsafeTestRealm("orders").verifier, terms, {}, Path(), "decider.pdp")
    assert "xxx" not in str(raised.value)


PAGE = ROOT / "docs" / "deciders.md"


def test_the_example_is_answered_as_shown(tmp_path: Path) -> None:
    """docs/deciders.md: the table, the question, and the mapping that a server of MCP declares."""
    shown = blocks(PAGE.read_text("utf-8"))
    [text] = [each.text for each in shown if "authzen" in each.text and each.language == "toml"]
    question, declared = [json.loads(each.text) for each in shown if each.language == "json"]
    (tmp_path / "gateway.toml").write_text(text)
    terms = read_settings(tmp_path / "gateway.toml").deciders["pdp"]
    (tmp_path / "api-gateway.secret").write_text(SECRET)
    (tmp_path / "api-gateway.secret").chmod(0o600)
    asked = Asked()
    asked.door = AuthZen(asked.realm.verifier, terms, {}, tmp_path, "decider.pdp")
    rules = Rule(tool="orders.refund", args={"order_id": "o-1", "amount": 12}), Rule(tool="orders.get", args={"id": 7})
    asked.caller = asked.realm.caller(*rules, agent=question["subject"]["id"])
    assert question["context"]["credential"].startswith("arx1_")
    question["context"]["credential"] = asked.caller.token("orders.refund", order_id="o-1", amount=12)
    assert asked.answer(question)["decision"] is True
    assert asked.realm.decisions.decisions[-1].peer == question["context"]["ip"]
    # As a PEP evaluates its expressions.
    params = {"name": "get", "arguments": {"id": 7}, "_meta": {META_KEY: asked.caller.token("orders.get", id=7)}}
    mapping = declared["evaluation"]
    assert mapping["context"]["credential"] == f"$params._meta['{META_KEY}']"
    assert mapping["action"]["properties"] == {"arguments": "$params.arguments"}
    mapping["action"]["properties"] = {"arguments": params["arguments"]}
    mapping["resource"]["id"], mapping["context"] = params["name"], {"credential": params["_meta"][META_KEY]}
    assert asked.answer(mapping | {"subject": question["subject"]})["context"]["tool"] == "orders.get"
