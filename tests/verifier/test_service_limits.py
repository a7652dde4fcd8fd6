# SPDX-License-Identifier: Apache-2.0
"""Limits of a service: each guard takes them, they only restrict, and what is not understood stops the start."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier import Caveat, Constraint, Rule, SettingsError
from arx_verifier.clock import now_ms
from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.enforcement.base.guard import protect
from arx_verifier.enforcement.mcp.messages import META_KEY, McpMessage, Messages
from arx_verifier.enforcement.rpc.rpc_call import RpcMethods
from arx_verifier.enforcement.wsgi.wsgi import ArxWSGI
from arx_verifier.errors import AccessError, ArxError
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.service import open_verifier
from arx_verifier.verification.service_limits import ServiceLimits, read_limits
from tests.house.pages import ROOT, blocks
from tests.support import ANYTHING, AT, INCARNATION, QUICK, access, mint, verifier
from tests.verifier import serving, test_wsgi
from tests.verifier.serving import TOOLS, Realm

pytestmark = pytest.mark.spec("20.2")

OVER = "over_service_limit"
REFUND: dict[str, Any] = {"tool": "orders.refund", "args": {"amount": {"max": 10}}, "open": True}
LIMITS: dict[str, Any] = {"rules": [REFUND, {"tool": "*"}]}


def by_asgi(realm: Realm, amount: int) -> str:
    body = b'{"amount":%d}' % amount
    answer = serving.answered(
        realm, "/orders/A-1/refund", realm.token().encode(), method="POST", body=body, limits=LIMITS
    )
    return "ok" if answer.status == 200 else str(answer.problem["code"])


def by_wsgi(realm: Realm, amount: int) -> str:
    app = ArxWSGI(test_wsgi.application, verifier=realm.verifier, tools=TOOLS, limits=LIMITS)
    body = b'{"amount":%d}' % amount
    answer = test_wsgi.run(app, test_wsgi.environ_of("/orders/A-1/refund", realm.token().encode(), "POST", body))
    return "ok" if answer.status == 200 else str(answer.problem["code"])


def by_function(realm: Realm, amount: int) -> str:
    @protect(realm.verifier, "orders.refund", limits=LIMITS)
    def refund(order_id: str, amount: int) -> str:
        return f"{order_id} {amount}"

    try:
        refund(order_id="A-1", amount=amount, arx_token=realm.token().encode())
    except ArxError as error:
        return error.code
    return "ok"


def by_mcp(realm: Realm, amount: int) -> str:
    params = {"name": "refund", "arguments": {"order_id": "A-1", "amount": amount}}
    message = McpMessage("tools/call", params, {META_KEY: realm.token().encode()})
    try:
        asyncio.run(Messages(realm.verifier, limits=LIMITS).decide(message))
    except RefusedCall as problem:
        return problem.code
    return "ok"


def by_rpc(realm: Realm, amount: int) -> str:
    methods = RpcMethods(realm.verifier, {"/orders.Orders/Refund": "orders.refund"}, limits=LIMITS)
    request = access("orders.refund", {"order_id": "A-1", "amount": amount}, at=now_ms())
    return methods.enforcement.decide(realm.token().encode(), request).code


@pytest.mark.parametrize("ask", [by_asgi, by_wsgi, by_function, by_mcp, by_rpc])
def test_each_guard_takes_limits(ask: Callable[[Any, int], str]) -> None:
    """The token allows 20, the limit 10, and the record has the service's code."""
    realm = Realm()
    assert [ask(realm, amount) for amount in (10, 11, 21)] == ["ok", OVER, "argument_not_allowed"]
    refused = realm.sink.decisions[1]
    assert (refused.code, refused.failures[0].place, refused.failures[0].rule) == (OVER, "service", "amount max")


def test_a_verifier_is_the_same_without_limits() -> None:
    """A guard that gets none takes the verifier itself; with limits it shares all of its parts."""
    plain = verifier()
    assert plain.within(None) is plain
    assert plain.limits == ()
    limited = plain.within(LIMITS)
    assert (limited.epochs, limited.decisions, limited.nonces) == (plain.epochs, plain.decisions, plain.nonces)
    assert plain.limits == ()


def test_several_limits_all_hold() -> None:
    """Those of the verifier stay in force in a guard that has its own."""
    first = verifier(limits={"rules": [{"tool": "orders.get", "args": {"n": {"max": 9}}}]})
    both = first.within({"rules": [{"tool": "orders.*", "args": {"n": {"min": 5}}}]})
    codes = {n: both.decide(mint().encode(), access(args={"n": n})).code for n in (4, 5, 9, 10)}
    assert codes == {4: OVER, 5: "ok", 9: "ok", 10: OVER}
    assert first.decide(mint().encode(), access(args={"n": 4})).code == "ok"


def test_limits_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    """The same rules as an argument and as a file have one digest, whatever their spelling."""
    path = tmp_path / "orders-limits.toml"
    path.write_text(
        'hours = ["mon-fri 08:00-18:00"]\n\n'
        '[[rules]]\nopen = true\ntool = "orders.refund"\nargs.amount = { max = 10 }\n\n[[rules]]\ntool = "*"\n'
    )
    written = LIMITS | {"hours": ["mon-fri 08:00-18:00"]}
    assert read_limits(path).digest == read_limits(written).digest
    assert read_limits(path).digest != read_limits(LIMITS).digest
    assert repr(read_limits(path)) == f"<ServiceLimits {read_limits(written).digest}>"
    assert read_limits(limits := ServiceLimits(LIMITS)) is limits


def test_the_page_s_file_is_understood(tmp_path: Path) -> None:
    """docs/service.md: a refund of 500 passes at noon, from its network."""
    [text] = [each.text for each in blocks((ROOT / "docs/service.md").read_text("utf-8")) if "approve = " in each.text]
    file = tmp_path / "orders-limits.toml"
    file.write_text(text)
    checked, noon = verifier(limits=file), AT + 4 * 60 * 60_000
    token = mint(iat=noon, exp=noon + 60_000).encode()
    calls: list[tuple[str, dict[str, Any], str]] = [
        ("orders.refund", {"amount": 500, "to": "x"}, "10.1.2.3"),
        ("orders.refund", {"amount": 501, "to": "x"}, "10.1.2.3"),
        ("orders.refund", {"amount": 500, "to": "x"}, "192.0.2.7"),
        ("orders.get", {}, "10.1.2.3"),
        ("orders.cancel", {}, "10.1.2.3"),
    ]
    codes = [checked.decide(token, access(tool, args, at=noon, peer=peer)).code for tool, args, peer in calls]
    assert codes == ["ok", OVER, OVER, "ok", OVER]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "expected `rules`, `net`, `hours` or `approve`, got none"),
        ({"rule": []}, "unknown field `rule`"),
        ({"rules": []}, "length >= 1"),
        ({"rules": [{"tool": "orders refund"}]}, "a rule's tool must be"),
        ({"rules": [{"tool": "a", "args": {"n": {"most": 1}}}]}, "unknown field"),
        ({"rules": [{"args": {}}]}, "tool"),
        ({"net": ["10.0.0.1/8"]}, "without host bits"),
        ({"hours": ["8-18"]}, "expected a time such as 'mon-fri 08:00-18:00'"),
        ({"hours": ["22:00-06:00"]}, "write two times"),
        ({"hours": ["fri-mon 08:00-09:00"]}, "write two times"),
        ({"hours": ["08:60-09:00"]}, "write two times"),
        ({"hours": ["08:00-24:01"]}, "write two times"),
        ({"approve": ["orders.refund "]}, "approve: expected tools such as orders.refund"),
        ({"approve": "orders.refund"}, "array"),
    ],
)
def test_what_is_not_understood_stops_the_start(wrong: dict[str, Any], message: str) -> None:
    """A limit that was ignored would limit nothing."""
    with pytest.raises(SettingsError, match=r"^invalid limits") as found:
        verifier(limits=wrong)
    assert message in str(found.value)


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    """A missing one, one that is no TOML, and one that is not understood; the error names it."""
    path = tmp_path / "limits.toml"
    for text in (None, "rules = [", "rule = 1"):
        if text is not None:
            path.write_text(text)
        with pytest.raises(SettingsError, match=str(path)):
            verifier(limits=path)


@pytest.mark.spec("15.2")
def test_a_service_file_with_limits_is_refused(tmp_path: Path) -> None:
    """The mint writes that file, so that they would hold only as long as the mint wants."""
    path = tmp_path / "orders.json"
    path.write_text(
        '{"v":1,"realm":"acme","audience":"orders","max_ttl_ms":1000,"keys":{},"limits":{"net":["10.0.0.0/8"]}}'
    )
    path.chmod(0o600)
    with pytest.raises(SettingsError, match=r"`limits`.*open_verifier\(limits=…\)"):
        open_verifier(path)


class Skewed(UnsafeLocalEpochs):
    """An epoch view whose store is some time ahead of the caller, or behind it."""

    skew_ms = 0

    def times_ms(self, at: int) -> tuple[int, int]:
        return min(at, at + self.skew_ms), max(at, at + self.skew_ms)


@pytest.mark.spec("20.3")
@pytest.mark.parametrize(
    ("hours", "skew_ms", "code"),
    [
        ("07:00-08:00", 0, OVER),  # AT is 08:00
        ("08:00-09:00", 0, "ok"),
        ("08:00-09:00", -1, OVER),
        ("08:00-09:00", 1, "ok"),
        ("08:00-08:01", 60_000, OVER),
    ],
)
def test_hours_hold_by_both_clocks(hours: str, skew_ms: int, code: str) -> None:
    """A clock that is wrong must not open the service before its time, or after."""
    epochs = Skewed(INCARNATION)
    epochs.skew_ms = skew_ms
    assert verifier(epochs=epochs, limits={"hours": [hours]}).decide(mint().encode(), access()).code == code


@pytest.mark.spec("20.3")
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 1439), st.integers(1, 1440), st.integers(0, 10_079))
@QUICK
def test_hours_are_those_of_a_calendar(first: int, last: int, begin: int, end: int, minute: int) -> None:
    """By the calendar of Python's own library."""
    import datetime as dt

    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    text = f"{days[first]}-{days[last]} {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    if first > last or begin >= end:
        with pytest.raises(SettingsError):
            ServiceLimits({"hours": [text]})
        return
    at = AT + minute * 60_000
    when = dt.datetime.fromtimestamp(at / 1000, dt.UTC)
    within = first <= when.weekday() <= last and begin <= when.hour * 60 + when.minute < end
    refused = ServiceLimits({"hours": [text]}).judge_circumstances(access(at=at), at, at)
    assert (refused is None) is within


VALUES = st.one_of(st.integers(-5, 25), st.sampled_from(["A-1", "B-1", "5", ""]), st.booleans(), st.none())
ARGS = st.dictionaries(st.sampled_from(["amount", "order_id", "memo"]), VALUES)
CONSTRAINTS: st.SearchStrategy[Any] = st.sampled_from(
    [{"max": 10}, {"range": [1, 20]}, {"glob": "A-*"}, {"one_of": [1, 5]}, {"any": True}, {"max": 10, "optional": True}]
)
RULE = st.fixed_dictionaries(
    {"tool": st.sampled_from(["orders.refund", "orders.*", "*"])},
    optional={
        "args": st.dictionaries(st.sampled_from(["amount", "order_id"]), CONSTRAINTS),
        "open": st.just(True),
    },
)


@given(st.lists(RULE, min_size=1, max_size=3), ARGS)
@QUICK
def test_rules_refuse_what_a_holder_could_have_excluded(rules: list[dict[str, Any]], args: Mapping[str, Any]) -> None:
    """Each rule restricts as the same rule in an attenuation does, and a failure is named for each refusal."""
    request = access("orders.refund", dict(args))
    wanted = [Caveat(allow=(_rule(rule),)) for rule in rules]
    attenuated = verifier().decide(mint(ANYTHING, *wanted).encode(), request)
    limited = verifier(limits={"rules": rules}).decide(mint().encode(), request)
    assert (limited.code == "ok") == (attenuated.code == "ok")
    if limited.code != "ok":
        assert limited.code == OVER
        assert [failure._replace(place="") for failure in limited.all_failures()] == [
            failure._replace(place="") for failure in attenuated.all_failures()
        ]


def _rule(written: dict[str, Any]) -> Rule:
    args = written.get("args")
    named = None if args is None else {name: Constraint(**constraint) for name, constraint in args.items()}
    return Rule(tool=written["tool"], args=named, open=written.get("open", False))


@given(RULE, ARGS, ARGS)
@QUICK
def test_an_unseen_body_opens_nothing(rule: dict[str, Any], seen: dict[str, Any], body: dict[str, Any]) -> None:
    """What is allowed without the body is allowed with each body."""
    limits = ServiceLimits({"rules": [rule]})
    if limits.judge_tool(access("orders.refund", seen), None, True) is None:
        assert limits.judge_tool(access("orders.refund", body | seen), None, False) is None


def test_a_list_shows_what_the_limits_could_allow() -> None:
    """No client is offered a tool that every call of would be refused."""
    checked = verifier(limits={"rules": [{"tool": "orders.get", "args": {"n": 1}}]})
    screened = checked.screen(mint().encode())
    assert not isinstance(screened, str)
    shown = {(tool, n): checked.could_allow(screened, tool, {"n": n}) for tool in ("orders.get", "a") for n in (1, 2)}
    assert [pair for pair, is_shown in shown.items() if is_shown] == [("orders.get", 1)]


@pytest.mark.spec("7.4")
def test_the_work_of_limits_is_bounded() -> None:
    """A caller of a service with many rules must not keep it busy with long arguments."""
    many = [{"tool": "orders.*", "args": {"text": {"glob": f"*{n}"}}, "open": True} for n in range(40)]
    limits = ServiceLimits({"rules": many})
    refused = limits.judge_tool(access("orders.get", {"text": "x" * 2**20}), None, False)
    assert refused is not None
    assert (refused.code, refused.failures[0].rule) == (OVER, "size of the arguments")


def test_names_of_tools_fill_no_memory() -> None:
    """A token for any tool lets its holder name more tools than are kept."""
    limits = ServiceLimits(LIMITS)
    for number in range(1000):
        limits.judge_tool(access(f"orders.t{number}"), None, False)
    assert len(limits._by_tool) <= 64


def test_a_refusal_names_what_would_be_allowed() -> None:
    """To a person and to a program; a model reads the same sentence."""
    with pytest.raises(AccessError) as found:
        verifier(limits=LIMITS).verify(mint().encode(), access("orders.refund", {"amount": 11}))
    assert found.value.code == OVER
    assert str(found.value) == "over service limit: amount must be at most 10, got 11"
