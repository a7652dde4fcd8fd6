# SPDX-License-Identifier: Apache-2.0
"""What the command line says of third-party caveats and approvals, offline."""

from pathlib import Path

import pytest

from arx_caps.agent import Approval, Bundle
from arx_verifier.token.call_proof import CallSigner, tool_fields
from arx_verifier.token.discharge import ThirdPartyCaveat, bind
from arx_verifier.token.wire import JOINT
from tests.cli.helpers import REQUIRED, TASK, approval, arx, bundle, service_file

ARGS = {"amount": 20}
WANTS = ("--tool", "payments.refund", "--arg", "amount=20")


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A file with a task whose refunds have to be approved."""
    path = tmp_path / "held"
    path.write_text(bundle(REQUIRED).encode() + "\n")
    return path


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A file with an approval of a refund of 20."""
    path = tmp_path / "given"
    path.write_text(approval(20) + "\n")
    return path


def test_inspect_says_which_calls_wait_for_an_approval(held: Path) -> None:
    """
    The third-party caveat is shown in words beside what the token restricts, and as data for scripts.
    """
    ran = arx("token", "inspect", held)
    assert "caveat 2: operators must approve" in ran.out
    assert f"removes calls of payments.refund without an approval, a discharge for k1.0:{TASK}" in ran.out
    payments = arx("token", "inspect", held, "--json").json["tokens"][1]
    assert payments["caveats"][1]["kind"] == "third_party_caveat"
    assert payments["caveats"][1]["caveat"] == {"third_party": {"id": f"k1.0:{TASK}", "tools": ["payments.refund"]}}
    assert payments["never_accepted"] is None


def test_inspect_reads_an_approval_and_a_whole_credential(held: Path, given: Path) -> None:
    """
    The approved call, the expiry, and that it is for one use; beside the call that it was sent with, too.
    """
    ran = arx("token", "inspect", given)
    assert ran.exit_code == 0
    for text in (
        "not verified",
        "a call of payments.refund",
        "payments.refund(amount = 20)",
        "every call but one with",
    ):
        assert text in ran.out
    token = Bundle.parse(held.read_text().strip()).tokens["payments"]
    text = CallSigner(token, "payments").sign(tool_fields("payments.refund", ARGS), 1_800_000_000_000)
    whole = JOINT.join([text, bind(Approval.from_text(given.read_text()).discharge, token).encode()])
    both = arx("token", "inspect", "-", "--json", stdin=f"Bearer {whole}")
    assert (both.json["kind"], len(both.json["tokens"]), len(both.json["discharges"])) == ("token", 1, 1)
    assert both.json["discharges"][0]["answers"]["id"] == f"k1.0:{TASK}"
    assert "arx1_" not in both.out + ran.out


@pytest.mark.parametrize("service", [False, True])
def test_explain_says_that_an_approval_is_missing_and_what_to_do(
    held: Path, given: Path, tmp_path: Path, service: bool
) -> None:
    """
    Without one the call is denied, with one it is allowed, with other arguments it is not; the service agrees.
    """
    words = ("token", "explain", held)
    if service:
        words = (*words, "--service", service_file(tmp_path / "payments.json", audience="payments"))
    missing = arx(*words, *WANTS)
    assert (missing.exit_code, missing.out.partition(":")[0]) == (1, "denied")
    assert "missing_discharge" in missing.out
    assert "`arx task ask`" in missing.err
    assert arx(*words, *WANTS, "--approval", given).out.startswith("allowed")
    other = arx(*words, "--tool", "payments.refund", "--arg", "amount=21", "--approval", given, "--json").json
    assert (other["allowed"], other["code"]) == (False, "argument_not_allowed")
    if not service:
        assert arx(*words, "--tool", "orders.get", "--arg", "order_id=o-1").out.startswith("allowed")


def test_an_approval_that_does_not_belong_is_reported(held: Path, tmp_path: Path) -> None:
    """
    Of another task, over, or no approval at all; an approval is no token, either.
    """
    other, over, none = tmp_path / "other", tmp_path / "over", tmp_path / "none"
    other.write_text(approval(20, required=ThirdPartyCaveat(id="k1.0:t-bbbbbbbbbbbbbbbb", tools=("payments.refund",))))
    over.write_text(approval(20, ttl_ms=-1000))
    none.write_text(bundle().encode())
    for path, says in ((other, "is for the task t-b"), (over, "is over since"), (none, "bundle")):
        ran = arx("token", "explain", held, *WANTS, "--approval", path)
        assert (ran.exit_code in (1, 2), says in ran.err) == (True, True), ran
    ran = arx("token", "explain", over, *WANTS, "--json")
    assert (ran.json["code"], "got an approval" in ran.json["error"]) == ("malformed_token", True)
    assert "--approval FILE" in ran.json["hint"]


@pytest.mark.parametrize(
    "words",
    [
        ("approval", "show", "x"),
        ("approval", "approve", "t-abcdefghijklmnop", "--yes"),
        ("approval", "deny", "a-a/../b"),
        ("approval", "withdraw", "a-\u0430", "--yes"),
    ],
)
def test_what_is_no_approvals_id_goes_nowhere(words: tuple[str, ...], tmp_path: Path) -> None:
    """
    A mistake is reported before a key is read or a mint is asked, whatever else would go wrong.
    """
    ran = arx(*words, "--realm-dir", tmp_path / "none", "--json")
    assert (ran.exit_code, ran.json["code"]) == (2, "usage")  # not "no_key"
    assert "expected the id of an approval such as a-abcdefghijklmnop" in ran.json["error"]


@pytest.mark.parametrize("words", [("task", "ask", *WANTS, "--in", "x"), ("approval", "wait", "a-abcdefghijklmnop")])
def test_an_answer_that_could_not_be_kept_is_not_waited_for(words: tuple[str, ...], tmp_path: Path) -> None:
    """
    No operator is asked, and no user waits for hours, for what has no place to be written to.
    """
    place = tmp_path / "no folder" / "given"
    ran = arx(*words, "--session", tmp_path / "none", "--discharge", place, "--json")
    assert (ran.exit_code, ran.json["code"], str(place) in ran.json["error"]) == (2, "usage", True)


def test_a_single_token_asks_for_nothing(tmp_path: Path) -> None:
    """
    What is asked for belongs to a task: its bundle says whose.
    """
    path = tmp_path / "one"
    path.write_text(bundle(REQUIRED).tokens["payments"].encode())
    ran = arx("task", "ask", "--in", path, "--session", tmp_path / "none", *WANTS, "--json")
    assert (ran.exit_code, ran.json["code"]) == (2, "usage")  # not "file", of the session
    assert "got a single token" in ran.json["error"]
