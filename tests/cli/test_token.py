# SPDX-License-Identifier: Apache-2.0
"""``arx token``: inspect, delegation, explain."""

import re
import stat
import time
from pathlib import Path

import pytest

from arx_caps.agent import make_holder_key
from arx_caps.agent.tasks.bundle import Bundle
from arx_verifier import AccessRequest, Caveat, Macaroon, Rule
from arx_verifier.token import call_proof, caveats
from arx_verifier.token.call_proof import CallSigner
from arx_verifier.token.discharge import ThirdPartyCaveat, require_discharge
from arx_verifier.token.holder import audience_public
from tests.cli.helpers import KEY, SESSION, arx, bundle, orders, service_file


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A file with a bundle for two services."""
    path = tmp_path / "held"
    path.write_text(bundle().encode() + "\n")
    return path


def test_inspect_says_who_what_and_that_nothing_is_proven(held: Path) -> None:
    """
    People see agent, session, what each caveat takes away, and first of all that none of it is verified.
    """
    ran = arx("token", "inspect", held)
    assert ran.exit_code == 0
    assert ran.out.startswith("not verified")
    for text in ("acme/support", SESSION, 'orders.get(order_id = "o-1")', "other than acme/**"):
        assert text in ran.out
    assert re.search(r"in (9m|10m\b)", ran.out)  # 10m when not one millisecond went by


def test_inspect_shows_no_token(held: Path) -> None:
    """
    What is inspected is a secret; fingerprints name it.
    """
    for ran in (arx("token", "inspect", held), arx("--json", "token", "inspect", held)):
        assert "arx1_" not in ran.out
        assert "arxb1_" not in ran.out
        assert "sha256:" in ran.out


def test_inspect_as_json_names_every_delegate(held: Path) -> None:
    """
    The links that a kill can name are all there, the first one and that of each delegation.
    """
    handed = arx("token", "delegate", "acme/worker", "--in", held, "--json", "--depth", "0").json
    ran = arx("token", "inspect", "-", "--json", stdin=handed["bundle"])
    token = ran.json["tokens"][0]
    assert ran.json["verified"] is False
    assert token["holder"] == "acme/worker"
    assert token["links"][-1] == handed["link"]
    assert [step["kind"] for step in token["caveats"]] == ["mint", "delegation"]


def test_a_token_copied_from_a_header_is_read() -> None:
    """
    ``Bearer`` before a token is no reason to refuse it.
    """
    assert arx("token", "inspect", "-", stdin=f"Bearer {orders().encode()}\n").exit_code == 0


def test_delegate_attenuates_and_prints_the_link(held: Path, tmp_path: Path) -> None:
    """
    The result is a bundle of the tokens that still have a tool, private on disk, with the way to kill it on stderr.
    """
    out = tmp_path / "given"
    ran = arx("token", "delegate", "acme/worker", "--in", held, "--tool", "orders.get", "--ttl", "1m", "--out", out)
    assert ran.exit_code == 0
    assert ran.out == ""
    assert "arx kill link:" in ran.err
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    given = Bundle.parse(out.read_text().strip())
    assert given.audiences == ("orders",)
    assert given.outline.named == ("acme/worker",)
    assert given.outline.exp < time.time_ns() // 1_000_000 + 61_000


def test_delegate_of_a_single_token_gives_a_token() -> None:
    """
    What came as a token goes on as a token, on stdout and nothing else there.
    """
    ran = arx("token", "delegate", "acme/worker", "--in", "-", stdin=orders().encode())
    assert ran.exit_code == 0
    assert len(Macaroon.parse(ran.out.strip()).packets) == 2


def test_delegate_of_an_expired_token_is_refused() -> None:
    """
    The next holder could do nothing with it.
    """
    ended = orders(exp=time.time_ns() // 1_000_000 - 1).encode()
    ran = arx("token", "delegate", "acme/worker", "--in", "-", stdin=ended)
    assert (ran.exit_code, ran.out) == (1, "")
    assert "this token has expired: nothing is left to delegate" in ran.err
    assert "`arx task extend`" in ran.err


def test_delegate_takes_constraints_as_json(held: Path) -> None:
    """
    A constraint attenuates the argument of every tool left that takes it.
    """
    amount = 'amount={"range":[0,20]}'
    ran = arx("token", "delegate", "acme/w", "--in", held, "--tool", "payments.refund", "--arg", amount)
    for value, exit_code in (("20", 0), ("21", 1)):
        call = ("--tool", "payments.refund", "--arg", f"amount={value}")
        assert arx("token", "explain", "-", *call, stdin=ran.out).exit_code == exit_code


@pytest.mark.parametrize(
    ("args", "exit_code", "says"),
    [
        (("other/worker",), 1, "the next holder must match"),
        (("Not/A/Path",), 2, "agent path"),
        (("acme/w", "--tool", "orders.delete"), 2, "orders.delete"),
        (("acme/w", "--tool", "orders.get", "--arg", 'order_id={"rang":[0,1]}'), 2, "rang"),
        (("acme/w", "--tool", "orders.get", "--arg", "order_id"), 2, "NAME=VALUE"),
        (("acme/w", "--audience", "mail"), 2, "mail"),
        (("acme/w", "--ttl", "soon"), 2, "duration"),
        (("acme/w", "--depth", "17"), 2, "17"),
        (("acme/w", "--budget", "usd"), 2, "UNIT=AMOUNT"),
        (("acme/w", "--budget", "usd=1", "--budget", "usd=2"), 2, "given twice"),
        (("acme/w", "--budget", "USD=1"), 2, "a unit is named"),
        (("acme/w", "--budget", "usd=ten"), 2, "budget: usd"),
    ],
)
def test_a_delegate_that_would_be_useless_is_refused(
    held: Path, args: tuple[str, ...], exit_code: int, says: str
) -> None:
    """
    The holder hears of a mistake, not its sub-agent later; nothing is written to stdout.
    """
    ran = arx("token", "delegate", *args, "--in", held)
    assert (ran.exit_code, ran.out) == (exit_code, "")
    assert says in ran.err


def test_explain_shows_every_failing_argument(held: Path) -> None:
    """
    Each argument that does not fit is there with what was expected and what came.
    """
    ran = arx("token", "explain", held, "--tool", "payments.refund", "--arg", "amount=70", "--arg", "note=x", "--json")
    assert ran.exit_code == 1
    assert ran.json["code"] == "argument_not_allowed"
    assert [(f["rule"], f["came"]) for f in ran.json["failures"]] == [("amount range", "70"), ("note", '"x"')]


def test_explain_without_a_service_file_says_what_it_leaves_out(held: Path) -> None:
    """
    Caveats alone prove nothing, and the command reports that.
    """
    ran = arx("token", "explain", held, "--tool", "orders.get", "--arg", "order_id=o-1", "--json")
    assert (ran.exit_code, ran.json["signature_checked"]) == (0, False)
    about_signature, about_call = ran.json["notes"]
    assert "signature, kills and freezes are not checked" in about_signature
    assert "taken as signed" in about_call


def test_explain_with_a_service_file_checks_the_signature(held: Path, tmp_path: Path) -> None:
    """
    The right key says allowed, another one says that the token was not made for it.
    """
    call = ("token", "explain", held, "--tool", "orders.get", "--arg", "order_id=o-1", "--json")
    good = arx(*call, "--service", service_file(tmp_path / "good"))
    bad = arx(*call, "--service", service_file(tmp_path / "bad", key=b"x" * 32))
    assert (good.exit_code, good.json["signature_checked"], good.json["allowed"]) == (0, True, True)
    assert (bad.exit_code, bad.json["code"]) == (1, "bad_signature")


def test_with_and_without_the_key_the_verdict_is_the_same(held: Path, tmp_path: Path) -> None:
    """
    For an authentic token the caveats' judgement is the verifier's.
    """
    service = service_file(tmp_path / "service")
    later = str(time.time_ns() // 1_000_000 + 3_600_000)
    for args in (
        ("--tool", "orders.get", "--arg", "order_id=o-1"),
        ("--tool", "orders.get", "--arg", "order_id=o-2", "--arg", "x:=[1,2]"),
        ("--tool", "orders.get"),
        ("--tool", "orders.list"),
        ("--tool", "mail.send"),
        ("--tool", "orders.list", "--at", later),
    ):
        alone = arx("token", "explain", held, "--audience", "orders", "--json", *args).json
        whole = arx("token", "explain", held, "--json", "--service", service, *args).json
        assert (alone["code"], len(alone["failures"])) == (whole["code"], len(whole["failures"])), args


@pytest.mark.parametrize("signs", [False, True])
def test_explain_calls_with_a_bound_token_by_its_holder_s_key(tmp_path: Path, *, signs: bool) -> None:
    """
    With the holder's key it is judged as the service would; with another one, or none, nothing is judged.
    """
    key = make_holder_key(tmp_path / "own.key")
    make_holder_key(tmp_path / "other.key")
    token = orders(holder=key.public, aud_key=audience_public(KEY))
    text = (token.attenuate(Caveat(require=("signature",))) if signs else token).encode()
    call = ("token", "explain", "-", "--tool", "orders.get", "--json", "--service", service_file(tmp_path / "orders"))
    for order, code in (("o-1", "ok"), ("o-2", "argument_not_allowed")):
        output = arx(*call, "--arg", f"order_id={order}", "--holder-key", tmp_path / "own.key", stdin=text)
        assert output.json["code"] == code
    for more in ((), ("--holder-key", tmp_path / "other.key")):
        ran = arx(*call, "--arg", "order_id=o-1", *more, stdin=text)
        assert (ran.exit_code, f"bound to the key {key.public}" in ran.err) == (2, True), ran


def test_explain_draws_on_no_budget(tmp_path: Path) -> None:
    """
    The ledger is not even asked: pools are taken as full, and a call that costs more than all of one is refused.
    """
    service = service_file(tmp_path / "orders", ledger="redis://127.0.0.1:1")
    call = ("token", "explain", "-", "--tool", "orders.list", "--json", "--service", service)
    for most, code in (("1", "ok"), ("0.5", "insufficient_budget")):
        text = orders().attenuate(Caveat(spend=("own", "calls", most, "task", 1))).encode()
        output = arx(*call, stdin=text).json
        assert (output["code"], "budgets are taken as full" in output["notes"][1]) == (code, True), output
    assert arx(*call, stdin=orders().encode()).json["notes"][1:] == [
        "the call was signed here, as the token's holder would sign it"
    ]


def test_explain_judges_budgets_beside_marks(tmp_path: Path) -> None:
    """A call that a row is about is refused for what it costs, as another one is."""
    service = service_file(tmp_path / "orders", ledger="redis://127.0.0.1:1")
    rows = Caveat(after=((("untrusted",), ("orders.list",)),), opened=int(time.time() * 1000))
    for most, code in (("1", "ok"), ("0.5", "insufficient_budget")):
        text = orders().attenuate(rows, Caveat(spend=("own", "calls", most, "task", 1))).encode()
        shown = arx("token", "explain", "-", "--tool", "orders.list", "--json", "--service", service, stdin=text).json
        assert shown["code"] == code, shown


def test_a_budget_of_a_delegation_limits_what_the_delegate_spends(tmp_path: Path) -> None:
    """
    Each of several services refuses what costs more than the pool; a unit without a budget is not limited.
    """
    service = service_file(tmp_path / "orders", ledger="redis://127.0.0.1:1")
    (tmp_path / "held").write_text(bundle().encode())
    call = ("token", "explain", "-", "--tool", "orders.list", "--json", "--service", service)
    for amount, code in (("calls=1", "ok"), ("calls=0.5", "insufficient_budget")):
        words = ("token", "delegate", "acme/worker", "--in", tmp_path / "held", "--budget", amount, "--per", "hour")
        given = arx(*words)
        assert arx(*call, stdin=given.out).json["code"] == code, amount
        for macaroon in Bundle.parse(given.out.strip()).tokens.values():
            pool = caveats.read_caveat(macaroon.packets[-1]).spend
            assert pool is not None
            assert pool[:4] == ("worker", "calls", amount[6:], "hour")
        inspected = arx("token", "inspect", "-", stdin=given.out).out
        assert f"    removes spending above {amount[6:]} calls an hour (pool worker)\n" in inspected


def test_explain_judges_time_and_network(tmp_path: Path) -> None:
    """
    ``--at`` and ``--peer`` stand for the request's time and address.
    """
    net = orders().attenuate(Caveat(net=("10.0.0.0/8",))).encode()
    call = ("token", "explain", "-", "--tool", "orders.list", "--json")
    assert arx(*call, "--at", "2050-01-01T00:00:00Z", stdin=net).json["code"] == "expired"
    late = (*call[:-1], "--at", "2050-01-01T00:00:00Z")
    for words in (late, (*late, "--service", service_file(tmp_path / "orders.json"))):
        assert "got 2050-01-01 00:00:00.000Z" in arx(*words, stdin=net).out
    assert arx(*call, stdin=net).json["code"] == "network_not_allowed"
    assert arx(*call, "--peer", "192.0.2.1", stdin=net).json["code"] == "network_not_allowed"
    assert arx(*call, "--peer", "10.1.2.3", stdin=net).json["code"] == "ok"


def test_explain_asks_for_approvals_last(tmp_path: Path) -> None:
    """
    What a call needs beside the token is reported once nothing else refuses it, with a service file and without.
    """
    raw = ThirdPartyCaveat("k1.0:t-1", ("orders.list",)).encode()
    requiring = require_discharge(orders().attenuate(Caveat(net=("10.0.0.0/8",))), raw, bytes(32)).encode()
    call = ("token", "explain", "-", "--json", "--tool", "orders.list")
    for words in (call, (*call, "--service", service_file(tmp_path / "orders.json"))):
        assert arx(*words, stdin=requiring).json["code"] == "network_not_allowed"
        ran = arx(*words, "--peer", "10.1.2.3", stdin=requiring)
        assert (ran.exit_code, ran.json["code"]) == (1, "missing_discharge")
        assert ran.json["failures"][0]["expected"] == "a discharge for k1.0:t-1"


def test_a_one_shot_token_is_explained_for_its_call(tmp_path: Path) -> None:
    """
    A token captured from a call is judged as that call where the key is there, and by its caveats where it is not.
    """
    now = time.time_ns() // 1_000_000
    request = AccessRequest("orders.list", {}, now)
    text = CallSigner(orders(), "orders").sign(call_proof.fields_of(request), now)
    service = service_file(tmp_path / "service")
    call = ("token", "explain", "-", "--json", "--service", service, "--tool")
    assert arx(*call, "orders.list", stdin=text).json["code"] == "ok"
    assert arx(*call, "orders.get", "--arg", "order_id=o-1", stdin=text).json["code"] == "proof_invalid"
    assert arx("token", "explain", "-", "--tool", "orders.list", stdin=text).exit_code == 0
    assert "for one call" in arx("token", "inspect", "-", stdin=text).out


@pytest.mark.parametrize("signs", [False, True])
def test_a_one_shot_token_of_a_bound_task_is_described(tmp_path: Path, signs: bool) -> None:
    """
    The proof of its holder is no restriction.
    """
    now, key = time.time_ns() // 1_000_000, make_holder_key(tmp_path / "own.key")
    signer = CallSigner(orders(holder=key.public, aud_key=audience_public(KEY)), "orders", key, signs=signs)
    text = signer.sign(call_proof.fields_of(AccessRequest("orders.list", {}, now)), now)
    last = arx("token", "inspect", "-", "--json", stdin=text).json["tokens"][0]["caveats"][-1]
    assert (last["kind"], len(last["caveat"]["call"])) == ("call", 3)
    assert last["removes"][0].startswith("every call but the one signed at")


def test_a_tool_of_no_token_asks_which_service(held: Path) -> None:
    """
    Where a bundle does not say which token a call would use, the operator must.
    """
    ran = arx("token", "explain", held, "--tool", "mail.send", "--json")
    assert (ran.exit_code, ran.json["code"], "--audience" in ran.json["hint"]) == (2, "audience", True)


def test_text_of_a_holder_cannot_steer_a_terminal() -> None:
    """
    Control characters in a caveat are shown, not obeyed.
    """
    evil = orders().attenuate(Caveat(allow=(Rule(tool="orders.list", args={"x": "\x1b[2J\n"}),))).encode()
    for args in (("inspect", "-"), ("explain", "-", "--tool", "orders.list", "--arg", "x=\x1b[2J")):
        ran = arx("token", *args, stdin=evil)
        assert "\x1b" not in ran.out + ran.err
