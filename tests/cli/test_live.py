# SPDX-License-Identifier: Apache-2.0
"""The command line against a realm that runs: the whole job, with the mint alive and with it dead."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from arx_caps.cli import exit_codes
from arx_caps.cli import target_commands as kill_command
from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.access.place import Place
from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Verifier
from tests.cli.helpers import arx
from tests.cli.live import AGENT, Live, call, live_realm, live_verifier
from tests.servers import child

pytestmark = pytest.mark.servers
WORKER = "acme/support/worker"


@pytest.fixture
def up(tmp_path: Path, free_port: int) -> Iterator[Live]:
    """A running realm with one agent and the services of the sample policy."""
    with live_realm(tmp_path / "realm", free_port) as realm:
        realm.ok("agent", "enrol", AGENT, "--key-out", tmp_path / "agent.key", "--owner", "ada")
        for service in ("orders", "payments"):
            realm.ok("service", "enrol", service, "--out", tmp_path / f"{service}.json")
        yield realm


@pytest.fixture
def payments(up: Live, tmp_path: Path) -> Iterator[Verifier]:
    """The payments service's verifier, live in the store's registry."""
    with live_verifier(up, tmp_path / "payments.json") as verifier:
        yield verifier


@pytest.fixture
def session(up: Live, tmp_path: Path) -> str:
    """An open session with a refund task in ``held`` and what a worker was given of it in ``given``."""
    opened = up.ok("session", "open", "--key", tmp_path / "agent.key", "--purpose", "a refund", "--out", tmp_path / "s")
    params = ("--param", "order_id=o-1", "--param", "amount=20")
    up.ok("task", "start", "refund", "--session", tmp_path / "s", *params, "--out", tmp_path / "held")
    attenuated = ("--tool", "payments.refund", "--arg", 'amount={"range":[1,5]}', "--depth", "0")
    up.ok("token", "delegate", WORKER, "--in", tmp_path / "held", *attenuated, "--out", tmp_path / "given")
    return str(opened["session"]["id"])


def kill(up: Live, *words: str) -> dict[str, Any]:
    """Kill, until it is confirmed."""
    return up.confirmed("kill", *words, "--reason", "a test", "--yes")


@pytest.mark.slow
def test_the_whole_job(up: Live, payments: Verifier, session: str, tmp_path: Path) -> None:
    """
    Enrol, open, start, delegate, call, be refused, explain why, kill, and read it all in one tree.
    """
    assert stat.S_IMODE((tmp_path / "given").stat().st_mode) == 0o600
    assert call(payments, tmp_path / "given", "payments.refund", order_id="o-1", amount=5).code == "ok"
    refused = call(payments, tmp_path / "given", "payments.refund", order_id="o-1", amount=6)
    words = ("token", "explain", tmp_path / "given", "--service", tmp_path / "payments.json", "--tool", refused.tool)
    exit_code, output, _ = up.run(*words, "--arg", "order_id=o-1", "--arg", "amount=6")
    assert (exit_code, output["code"], output["signature_checked"]) == (exit_codes.DENIED, refused.code, True)
    assert output["failures"] == [failure._asdict() for failure in refused.failures]

    report = kill(up, "session", session)
    assert (report["by"], report["status"], report["confirmed"]) == ("mint", "confirmed", 2)
    assert call(payments, tmp_path / "given", "payments.refund", order_id="o-1", amount=5).code == "revoked"
    assert up.run(*words, "--arg", "order_id=o-1", "--arg", "amount=5")[1]["code"] == "revoked"
    code, shown, err = up.run("session", "show", session)
    assert (code, shown["session"]["state"]) == (0, "killed")
    assert "`arx kills list` shows by whom, when and why" in err

    trail = up.ok("decisions", "--session", session)
    worker = next(node for task in trail["tasks"] for node in task["children"] if node["name"] == WORKER)
    assert [decision["code"] for decision in worker["decisions"]] == ["ok", "argument_not_allowed", "revoked"]
    denied = up.ok("decisions", "--code", "deny", "--agent", "acme/**", "--tool", "payments.*")["decisions"]
    assert [decision["code"] for decision in denied] == ["argument_not_allowed", "revoked"]


@pytest.mark.slow
def test_verifier_list_names_services_without_a_verifier(up: Live, payments: Verifier, tmp_path: Path) -> None:
    """
    An enrolled service without a verifier is listed beside those that run; without a mint the list is unknown.
    """
    assert payments.audience == "payments"
    up.ok("service", "enrol", "parcels", "--out", tmp_path / "parcels.json")
    listed = up.ok("verifier", "list")
    assert "parcels" in listed["services_never_seen"]
    assert "payments" not in listed["services_never_seen"]
    assert {"live"} >= {one["state"] for one in listed["verifiers"] if one["id"].startswith("payments-")} != set()
    exit_code, listed, err = up.run("verifier", "list", "--issuer", "http://127.0.0.1:9")
    assert (exit_code, listed["services_never_seen"]) == (exit_codes.OK, None)
    assert "services without a verifier are unknown" in err
    assert "http://127.0.0.1:9" in err  # why they are not known


@pytest.mark.slow
def test_a_kill_needs_no_mint(up: Live, payments: Verifier, session: str, tmp_path: Path) -> None:
    """
    With the mint dead the kill goes straight into the store, is confirmed there, and the mint that comes back obeys it.
    """
    up.kill_mint()
    exit_code, output, _ = up.run("session", "list")
    assert (exit_code, output["schema"], output["exit_code"]) == (
        exit_codes.UNREACHABLE,
        "arx/error/1",
        exit_codes.UNREACHABLE,
    )

    def mint_forgotten() -> bool:
        view = up.ok("verifier", "list")
        return all(v["live"] or v["age_ms"] > view["lease_ms"] + 200 for v in view["verifiers"])

    up.until(mint_forgotten)  # its lease is over: who is left can confirm for all
    assert call(payments, tmp_path / "given", "payments.refund", order_id="o-1", amount=5).code == "ok"
    report = kill(up, "agent", WORKER)
    assert (report["by"], report["status"], report["verifiers"]) == ("store", "confirmed", 1)
    assert call(payments, tmp_path / "given", "payments.refund", order_id="o-1", amount=5).code == "revoked"
    up.revive()
    assert kill(up, "task", task_of(up, session))["by"] == "mint"


@pytest.mark.nightly
def test_a_kill_is_not_called_undone_when_the_mint_may_have_done_it(
    up: Live, payments: Verifier, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The store falls silent under the mint, then under the command: unknown, and to be repeated.  When it wakes, what the
    mint had sent is done.
    """
    # A verifier on a loaded machine may be stale for a moment.
    up.until(lambda: call(payments, tmp_path / "given", "payments.refund", order_id="o-1", amount=5).code == "ok")
    with redis.Redis.from_url(up.ready["store"]) as raw:
        store = raw.info("server")["process_id"]

    def sign_in(place: Place) -> Caller:
        """Sign in, and stop the store: the mint must be called for the outcome to be unknown, on a slow machine too."""
        caller = place.mint(60.0)
        os.kill(store, signal.SIGSTOP)
        return caller

    monkeypatch.setattr(kill_command, "_sign_in", sign_in)
    try:
        words = ("--reason", "x", "--yes", "--json", "--timeout", "1s", "--realm-dir", up.folder)
        ran = arx("kill", "session", session, *words)
        assert (ran.exit_code, ran.json["status"]) == (exit_codes.INCOMPLETE, "unknown")
        assert "nothing was done" not in ran.out + ran.err
        assert "repeat" in ran.json["summary"]
        # The lease has run out: an agent reads which program it is that cannot decide.
        words = ("session", "open", "--key", tmp_path / "agent.key", "--out", tmp_path / "further")
        up.until(lambda: "the mint cannot decide now: try again; `arx status` shows why" in up.run(*words)[2])
    finally:
        os.kill(store, signal.SIGCONT)
    up.until(lambda: call(payments, tmp_path / "given", "payments.refund", order_id="o-1", amount=5).code == "revoked")


def task_of(up: Live, session: str) -> str:
    """Return the id of a session's task."""
    return str(up.ok("session", "show", session)["tasks"][0]["id"])


@pytest.mark.slow
def test_freeze_and_thaw(up: Live, payments: Verifier, session: str, tmp_path: Path) -> None:
    """
    What is frozen is refused, what is thawed works again; the words for it are those of the command.  A store that is
    full takes both, and a kill, as well.
    """
    words = ("session", session, "--reason", "a test", "--yes")
    with redis.Redis.from_url(up.ready["store"]) as raw:
        for memory, verb, code in (("0", "freeze", "frozen"), ("1", "thaw", "ok"), ("1", "freeze", "frozen")):
            raw.config_set("maxmemory", memory)
            done = up.confirmed(verb, *words)
            assert (done["status"], done["by"]) == ("confirmed", "mint")
            raw.config_set("maxmemory", "0")  # a call finds no room in a full store to be remembered in
            assert call(payments, tmp_path / "given", "payments.refund", order_id="o-1", amount=5).code == code
        raw.config_set("maxmemory", "1")
        assert up.confirmed("kill", *words)["by"] == "mint"
        raw.config_set("maxmemory", "0")
        assert call(payments, tmp_path / "given", "payments.refund", order_id="o-1", amount=5).code == "revoked"


@pytest.mark.slow
def test_agents_and_sessions_end(up: Live, session: str, tmp_path: Path) -> None:
    """
    A finished task, an ended session and a deactivated agent say so; what is unknown is denied, not broken.
    """
    task = task_of(up, session)
    before = (tmp_path / "s").read_text()
    assert up.ok("session", "renew", "--session", tmp_path / "s")["session"]["state"] == "open"
    assert (tmp_path / "s").read_text() != before
    assert up.run("session", "freeze", session, "--reason", "x", "--yes", "--no-wait")[1]["durable"]
    exit_code, output, _ = up.run("session", "renew", "--session", tmp_path / "s")
    assert (exit_code, output["code"]) == (exit_codes.DENIED, "frozen")
    assert up.run("session", "thaw", session, "--reason", "x", "--yes", "--no-wait")[1]["durable"]
    orders = (
        "--in",
        tmp_path / "held",
        "--session",
        tmp_path / "s",
        "--audience",
        "orders",
        "--out",
        tmp_path / "less",
    )
    assert up.ok("task", "attenuate", *orders)["task"]["audiences"] == ["orders"]
    assert up.ok("task", "extend", task, "--session", tmp_path / "s", "--out", tmp_path / "more")["task"]["id"] == task
    grants = up.ok("task", "show", task)["grants"]
    assert [grant["audiences"] for grant in grants][:2] == [["orders"], ["orders"]]
    exit_code, output, _ = up.run(
        "task", "extend", task, "refund", "--param", "amount=101", "--session", tmp_path / "s"
    )
    assert (exit_code, "it would take" in str(output)) == (exit_codes.DENIED, True)
    assert up.ok("task", "list", "--of", session)["tasks"][0]["id"] == task
    assert up.ok("task", "finish", task, "--session", tmp_path / "s")["task"]["state"] == "ended"
    assert up.ok("session", "end", "--session", tmp_path / "s")["session"]["state"] == "ended"
    assert up.run("task", "start", "lookup", "--session", tmp_path / "s", "--param", "order_id=o-1")[0] != exit_codes.OK
    assert up.ok("agent", "deactivate", AGENT, "--yes")["agent"]["state"] == "deactivated"
    for words in (
        ("agent", "show", "acme/unknown"),
        ("session", "show", "s-aaaaaaaaaaaaaaaa"),
        ("task", "finish", "t-aaaaaaaaaaaaaaaa"),
        ("agent", "deactivate", "acme/unknown", "--yes"),
        ("decisions", "--session", "s-aaaaaaaaaaaaaaaa"),
        ("session", "open", "--key", tmp_path / "agent.key"),
    ):
        exit_code, output, _ = up.run(*words)
        assert exit_code in (exit_codes.DENIED, exit_codes.UNAUTHENTICATED), words
        assert output["schema"] == "arx/error/1"


@pytest.mark.slow
def test_the_policy_refuses_in_words(up: Live, session: str, tmp_path: Path) -> None:
    """
    A task beyond the policy is denied with what was expected; a second enrolment of an agent too, without its key.
    """
    words = ("task", "start", "refund", "--session", tmp_path / "s", "--param", "order_id=o-1", "--param", "amount=101")
    exit_code, output, _ = up.run(*words)
    assert (exit_code, output["code"]) == (exit_codes.DENIED, "bad_parameters")
    assert "amount" in output["error"]
    assert up.run("agent", "enrol", AGENT, "--key-out", tmp_path / "again.key")[0] == exit_codes.DENIED
    assert not (tmp_path / "again.key").exists()


@pytest.mark.slow
def test_a_stranger_is_not_authenticated(up: Live, tmp_path: Path) -> None:
    """
    An operator's key that the mint does not know is 4, and the store is not gone to behind its back.
    """
    from arx_caps.credentials.keyfile import KeyFile

    KeyFile.generate("operator", "eve", up.ready["issuer"]).save(tmp_path / "eve")
    words = ("kill", "realm", "--reason", "x", "--yes", "--operator-key", tmp_path / "eve")
    exit_code, output, err = up.run(*words)
    assert (exit_code, output["schema"]) == (exit_codes.UNAUTHENTICATED, "arx/error/1")
    assert "store" not in err


@pytest.mark.nightly
def test_the_doctor_finds_it_well_and_then_not(up: Live, tmp_path: Path) -> None:
    """
    A realm that runs is well; one whose secret others can read, or whose mint is dead, is not.
    """
    idle = {"service orders", "service payments"}  # enrolled, and none runs: it cannot know whether one should

    def bad() -> tuple[int, set[str]]:
        exit_code, output, _ = up.run("doctor")
        return exit_code, {check["name"] for check in output["checks"] if not check["ok"]}

    up.until(lambda: bad() == (exit_codes.INCOMPLETE, idle))
    (up.folder / "operator.key").chmod(0o644)
    up.kill_mint()
    assert bad() == (exit_codes.DENIED, {"permissions", "mint"} | idle)
    assert all(check["mend"] for check in up.run("doctor")[1]["checks"] if not check["ok"])


@pytest.mark.nightly
def test_up_stops_in_order(tmp_path: Path, free_port: int) -> None:
    """
    SIGTERM ends store and mint, with 0, and the same realm comes up again with what it knew.
    """
    first = Live(tmp_path / "realm", free_port)
    first.ok("agent", "enrol", AGENT, "--key-out", tmp_path / "agent.key")
    assert first.stop() == 0
    assert not list((tmp_path / "realm" / "valkey").glob("*.sock"))
    with live_realm(tmp_path / "realm", free_port) as again:
        assert [agent["path"] for agent in again.ok("agent", "list")["agents"]] == [AGENT]


@pytest.mark.slow
def test_a_session_goes_through_a_pipe(up: Live, tmp_path: Path) -> None:
    """
    Without ``--out`` a session file and a bundle go to stdout, and ``-`` takes them from stdin.
    """
    opened = up.ok("session", "open", "--key", tmp_path / "agent.key")
    (tmp_path / "s").touch(mode=0o600)
    (tmp_path / "s").write_text(json.dumps(opened))
    started = up.ok("task", "start", "lookup", "--session", tmp_path / "s", "--param", "order_id=7x", "--ttl", "1m")
    assert started["bundle"].startswith("arxb1_")
    (tmp_path / "held").write_text(started["bundle"])
    assert up.ok("token", "inspect", tmp_path / "held")["task"] == started["task"]["id"]


@pytest.mark.nightly
def test_the_mint_alone_serves_with_a_store_of_ones_own(
    valkey: EmbeddedValkey, realm_name: str, free_port: int, tmp_path: Path
) -> None:
    """
    ``arx mint serve`` says that it listens, answers, and stops at a signal; without a store it does not start.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
    environment["ARX_HOME"] = str(tmp_path / "realm")
    arx = [sys.executable, "-m", "arx_caps.cli"]
    made = [*arx, "init", "--name", realm_name, "--issuer", f"http://127.0.0.1:{free_port}"]
    subprocess.run(made, env=environment, check=True, capture_output=True)
    alone = subprocess.run([*arx, "mint", "serve"], env=environment, capture_output=True, text=True, timeout=60)
    assert alone.returncode == exit_codes.USAGE
    assert "--store" in alone.stderr
    serve = [*arx, "mint", "serve", "--store", valkey.url]
    with child(serve, env=environment, stderr=subprocess.PIPE, text=True) as mint:
        assert mint.stderr is not None
        assert any('"ready": true' in line for line in iter(mint.stderr.readline, ""))
        listed = subprocess.run([*arx, "agent", "list", "--json"], env=environment, capture_output=True, text=True)
        mint.terminate()
    assert json.loads(listed.stdout) == {"schema": "arx/agents/1", "agents": []}


@pytest.mark.slow
def test_an_operator_of_the_night_can_only_kill(up: Live, tmp_path: Path, session: str) -> None:
    """A kill-only key kills and is refused everything else; it is enrolled, widened and removed by the first one."""
    key = ("--operator-key", tmp_path / "night.key")
    answer = up.ok("operator", "enrol", "night", "--role", "kill-only", "--key-out", tmp_path / "night.key")
    assert stat.S_IMODE((tmp_path / "night.key").stat().st_mode) == 0o600
    assert answer["operator"]["role"] == "kill-only"
    # It may also look at kills, and do in the console what it may do here.
    assert up.ok("whoami", *key)["may"] == ["arx.kill", "arx.kills.preview", "arx.kills.read", "arx.console.open"]
    for words in (("session", "list"), ("operator", "list"), ("thaw", f"session:{session}", "--reason", "x", "--yes")):
        code, output, _ = up.run(*words, *key)
        assert (code, output["code"]) == (exit_codes.DENIED, "tool_not_allowed")
    up.confirmed("kill", f"session:{session}", "--reason", "3 a.m.", "--yes", *key)
    up.ok("operator", "role", "night", "--role", "responder")
    assert up.ok("session", "list", *key)["sessions"]
    up.ok("operator", "remove", "night", "--yes")
    assert up.run("whoami", *key)[0] == exit_codes.UNAUTHENTICATED
    up.ok("operator", "recover", "--key-out", tmp_path / "back.key")
    assert up.ok("whoami", "--operator-key", tmp_path / "back.key")["role"] == "admin"


@pytest.mark.slow
def test_state_keys_and_questions(up: Live, session: str) -> None:
    """``status`` says that the mint grants, ``key holders`` who signed, ``policy explain`` what is allowed."""
    assert session
    status = up.ok("status")
    assert (status["ready"], status["sessions"], status["store"]["error"]) == (True, 1, None)
    used = {key["holder"]: key["used_at"] for key in up.ok("key", "holders")["keys"]}
    assert used[AGENT] is not None
    asked = ("--agent", AGENT, "--task", "refund", "--param", "order_id=o-1", "--param", "amount=20")
    exit_code, answer, _ = up.run("policy", "explain", *asked, "--call", "mail.send")
    assert (exit_code, answer["call"]["code"]) == (exit_codes.DENIED, "tool_not_allowed")
    link = up.ok("console", "open")["url"]
    assert "/console/open?link=" in link
