# SPDX-License-Identifier: Apache-2.0
"""Who may call the mint: a caller needs a proof, of its own key, and each proof works once."""

import threading
from functools import partial
from importlib.metadata import version
from typing import Any

import pytest

from arx_caps.credentials.jose import KeyFile, SigningKey, make_assertion, token_hash
from arx_caps.mint.api.app import ENDPOINTS
from arx_caps.mint.context import HALTED
from arx_caps.mint.db.mint_database import MintDatabase
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import GrantError, StoreError
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token import wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Macaroon
from tests.mint.harness import AGENT, ISSUER, LOOKUP, Harness, Holder, now_ms
from tests.servers import run_together


def sample(path: str) -> str:
    return path.replace("{path:path}", AGENT).replace("{session}", "s-" + "a" * 16).replace("{task}", "t-" + "a" * 16)


ROUTES = [(endpoint.method, sample(endpoint.path)) for endpoint in ENDPOINTS]


@pytest.mark.slow
@pytest.mark.spec("CONTROL 1.2")
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_is_done_without_a_proof(unit: Harness, method: str, path: str) -> None:
    """Every route but those of health answers a stranger with 401, a challenge and a problem, whatever is sent."""
    for headers in (
        {},
        {"Authorization": "DPoP arx1_abc"},
        {"Authorization": "Bearer x", "DPoP": "x"},
        {"DPoP": "x.y.z"},
    ):
        answer = unit.client.request(method, path, headers=headers)
        assert answer.status_code == 401, (headers, answer.text)
        assert answer.headers["www-authenticate"].startswith('DPoP realm="acme"')
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.json()["code"]


def readiness(harness: Harness) -> dict[str, Any]:
    """What a healthy mint reports of itself without authentication."""
    key = str(harness.mint.log.publisher.signer.key)
    facts = {"realm": "acme", "issuer": ISSUER, "log_key": key, "version": version("arx-caps")}
    return {"ready": True, "because": [], "log": "ok", "warnings": [], "caller": "direct", **facts}


@pytest.mark.spec("CONTROL 4.1")
def test_health_reports_nothing_but_health(unit: Harness) -> None:
    """The two open routes say whether it runs and whether it can grant."""
    assert unit.client.get("/healthz").json() == {"status": "ok"}
    assert unit.client.get("/readyz").json() == readiness(unit)
    unit.mint.epochs.close()
    answer = unit.client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)


@pytest.mark.spec("LOG 1.8")
def test_a_halted_log_takes_the_mint_out_and_stops_no_grant(unit: Harness) -> None:
    """A proxy asks another mint; a caller that asks this one all the same is answered."""
    holder, _ = unit.session()
    unit.mint.log.publisher.halted = "the database is an older one"
    answer = unit.client.get("/readyz")
    reply = readiness(unit) | {"ready": False, "because": [HALTED], "log": "halted"}
    assert (answer.status_code, answer.json()) == (503, reply)
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201


def test_each_knows_who_it_is(unit: Harness) -> None:
    """``whoami`` names operator and agent as the mint proved them."""
    assert unit.operator().call("GET", "/v1/whoami").json()["name"] == "root"
    holder, session = unit.session()
    answer = holder.call("GET", "/v1/whoami").json()
    assert (answer["kind"], answer["name"], answer["session"]) == ("agent", AGENT, session["id"])
    assert holder.call("HEAD", "/v1/whoami").status_code == 200


@pytest.mark.spec("CONTROL 1.2")
def test_a_stolen_session_token_starts_no_task(unit: Harness) -> None:
    """Without the key that the session was opened with, its token is good for nothing."""
    holder, _ = unit.session()
    for key in (SigningKey.generate(), unit.operator_key.key):
        thief = Holder(unit, key, holder.token)
        answer = thief.call("POST", "/v1/tasks", LOOKUP)
        assert (answer.status_code, answer.json()["code"]) == (401, "bad_proof")
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201


@pytest.mark.spec("CONTROL 1.2")
def test_a_stolen_operator_token_kills_nothing(unit: Harness) -> None:
    """An operator's token goes with an enrolled key of that operator alone."""
    operator = unit.operator()
    agent = unit.enrol()
    for key in (SigningKey.generate(), agent.key):
        answer = Holder(unit, key, operator.token).call("GET", "/v1/agents")
        assert (answer.status_code, answer.json()["code"]) == (401, "bad_proof")


@pytest.mark.spec("CONTROL 1.2")
def test_a_proof_is_for_one_call(unit: Harness) -> None:
    """Another method, address or token than the signed one, an old proof, two proofs, and a repetition are refused."""
    holder, _ = unit.session()
    other, _ = unit.open_session(unit.enrol("acme/support/other"))
    path = "/v1/whoami"

    def ask(headers: dict[str, str], code: str) -> None:
        answer = unit.client.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert "invalid_dpop_proof" in answer.headers["www-authenticate"]

    ask(holder.headers("POST", path), "bad_proof")
    ask(holder.headers("GET", "/v1/tasks"), "bad_proof")
    ask(holder.headers("GET", path, url="http://evil.example" + path), "bad_proof")
    ask(holder.headers("GET", path, token=None), "bad_proof")
    ask(holder.headers("GET", path, token=other.token), "bad_proof")
    ask(holder.headers("GET", path, now=now_ms() - 60_000), "bad_proof")
    ask({"Authorization": f"DPoP {holder.token}"}, "bad_proof")
    both = [("DPoP", holder.headers("GET", path)["DPoP"]), ("DPoP", holder.headers("GET", path)["DPoP"])]
    answer = unit.client.get(path, headers=[("Authorization", f"DPoP {holder.token}"), *both])
    assert answer.json()["code"] == "bad_proof"
    once = holder.headers("GET", path)
    assert unit.client.get(path, headers=once).status_code == 200
    ask(once, "replayed")


@pytest.mark.spec("CONTROL 1.2")
def test_a_refused_proof_is_not_spent_for_its_owner(unit: Harness) -> None:
    """A stranger who sees a proof cannot use up its id: only its own key's calls count."""
    holder, _ = unit.session()
    headers = holder.headers("GET", "/v1/whoami")
    stolen = unit.client.get("/v1/whoami", headers={**headers, "Authorization": "DPoP arx1_other"})
    assert stolen.status_code == 401
    assert unit.client.get("/v1/whoami", headers=headers).status_code == 200


def open_with(harness: Harness, assertion: str, key: SigningKey | None = None) -> tuple[int, str]:
    holder = Holder(harness, key or harness.session_key, None)
    answer = holder.call("POST", "/v1/sessions", {"assertion": assertion})
    return answer.status_code, answer.json().get("code", "ok")


@pytest.mark.spec("CONTROL 1.1")
def test_an_assertion_opens_one_session(unit: Harness) -> None:
    """A second use, another audience, an unknown key, no algorithm and an operator's assertion open none."""
    agent = unit.enrol()
    good = unit.assertion(agent)
    assert open_with(unit, good) == (201, "ok")
    assert open_with(unit, good) == (401, "replayed")
    assert open_with(unit, make_assertion(agent, audience="http://127.0.0.1:1", now=now_ms())) == (
        401,
        "bad_assertion",
    )
    stranger = KeyFile.generate("agent", AGENT, ISSUER)
    assert open_with(unit, unit.assertion(stranger)) == (401, "bad_assertion")
    posing = KeyFile("agent", "acme/support/other", ISSUER, agent.key)
    assert open_with(unit, unit.assertion(posing)) == (401, "bad_assertion")
    _, claims, _ = unit.assertion(agent).split(".")
    header = wire.text_of(b'{"alg":"none","typ":"JWT","kid":"%b"}' % agent.key.kid.encode())
    assert open_with(unit, f"{header}.{claims}.") == (401, "bad_assertion")
    assert open_with(unit, unit.assertion(unit.operator_key)) == (403, "wrong_caller")


@pytest.mark.spec("CONTROL 1.1")
def test_signing_in_needs_the_enrolled_key_twice(unit: Harness) -> None:
    """An operator's assertion with a proof by another key buys nothing, nor does an agent's."""
    agent = unit.enrol()

    def sign_in(key: SigningKey, assertion: str) -> tuple[int, str]:
        answer = Holder(unit, key, None).call("POST", "/v1/operators/token", {"assertion": assertion})
        return answer.status_code, answer.json().get("code", "ok")

    assert sign_in(SigningKey.generate(), unit.assertion(unit.operator_key)) == (401, "bad_proof")
    assert sign_in(agent.key, unit.assertion(agent)) == (403, "wrong_caller")
    assert sign_in(unit.operator_key.key, unit.assertion(unit.operator_key)) == (201, "ok")


@pytest.mark.spec("CONTROL 1.1")
def test_one_assertion_in_many_hands_opens_one_session(unit: Harness) -> None:
    """Of many threads that use an id at once, one succeeds, also on two connections to the database."""
    answers: list[str] = []
    with MintDatabase(unit.realm.database_url) as other:
        barrier = threading.Barrier(8)

        def use(db: MintDatabase) -> None:
            barrier.wait()
            while True:
                try:
                    db.unit().spend("assertion", "kid", "one", now_ms() + 60_000)
                    answers.append("ok")
                except GrantError as error:
                    answers.append(error.code)
                except StoreError:  # a slow disk: nothing was done
                    continue
                return

        run_together(*(partial(use, (unit.mint.db, other)[n % 2]) for n in range(8)))
    assert sorted(answers) == ["ok"] + ["replayed"] * 7


def attenuated(holder: Holder, *caveats: Caveat) -> Holder:
    assert holder.token is not None
    return Holder(holder.harness, holder.key, Macaroon.parse(holder.token).attenuate(*caveats).encode())


@pytest.mark.spec("CONTROL 1.3")
def test_an_operator_attenuates_a_token_offline(unit: Harness) -> None:
    """A kill-only credential kills and does nothing else; an expired or unknown caveat refuses everything."""
    operator = unit.operator()
    reader = attenuated(operator, Caveat(allow=(Rule(tool="arx.agents.read"),)))
    assert reader.call("GET", "/v1/agents").status_code == 200
    refused = reader.call("POST", "/v1/kills", {"targets": ["realm"], "reason": "x"})
    assert (refused.status_code, refused.json()["code"]) == (403, "tool_not_allowed")
    assert refused.json()["failures"][0]["came"] == "arx.kill"
    over = attenuated(operator, Caveat(exp=now_ms() - 1))
    assert over.call("GET", "/v1/agents").json()["code"] == "expired"
    early = attenuated(operator, Caveat(nbf=now_ms() + 60_000))
    assert early.call("GET", "/v1/agents").json()["code"] == "not_yet_valid"
    for caveat in (Caveat(depth=0), Caveat(aud=("arx.mint",)), Caveat(net=("127.0.0.0/8",)), Caveat(require=("call",))):
        assert attenuated(operator, caveat).call("GET", "/v1/agents").json()["code"] == "unknown_caveat"


@pytest.mark.spec("CONTROL 1.6")
def test_an_operators_arguments_can_be_attenuated(unit: Harness) -> None:
    """A token for one agent's path looks at that agent and at no other."""
    unit.enrol()
    unit.enrol("acme/support/other")
    one = attenuated(unit.operator(), Caveat(allow=(Rule(tool="arx.agents.read", args={"path": AGENT}),)))
    assert one.call("GET", f"/v1/agents/{AGENT}").status_code == 200
    refused = one.call("GET", "/v1/agents/acme/support/other")
    assert (refused.status_code, refused.json()["code"]) == (403, "argument_not_allowed")


@pytest.mark.spec("CONTROL 1.3")
def test_altered_tokens_are_refused(unit: Harness) -> None:
    """A changed byte of an operator's or a session's token breaks it."""
    for holder in (unit.operator(), unit.session()[0]):
        assert holder.token is not None
        raw = bytearray(wire.bytes_of(holder.token.removeprefix("arx1_")))
        raw[-1] ^= 1
        forged = Holder(unit, holder.key, "arx1_" + wire.text_of(bytes(raw)))
        answer = forged.call("GET", "/v1/whoami")
        assert (answer.status_code, answer.json()["code"]) == (401, "bad_signature")


@pytest.mark.spec("CONTROL 1.3")
def test_each_stays_on_its_side(unit: Harness) -> None:
    """An agent's token does no operator's work, an operator's token starts no task."""
    holder, _ = unit.session()
    for method, path, body in (
        ("GET", "/v1/agents", None),
        ("GET", "/v1/sessions", None),
        ("DELETE", f"/v1/agents/{AGENT}", None),
        ("POST", "/v1/kills", {"targets": ["realm"], "reason": "x"}),
        ("PUT", "/v1/services/orders", None),
    ):
        answer = holder.call(method, path, body)
        assert answer.status_code == 403, answer.text
    answer = unit.operator().call("POST", "/v1/tasks", LOOKUP)
    assert (answer.status_code, answer.json()["code"]) == (403, "wrong_caller")


def test_an_agent_sees_its_own_session_alone(unit: Harness) -> None:
    """Another's session and task are not there, to look at or to end."""
    holder, session = unit.session()
    other, other_session = unit.open_session(unit.enrol("acme/support/other"))
    task = other.call("POST", "/v1/tasks", LOOKUP).json()["task"]
    assert holder.call("GET", f"/v1/sessions/{session['id']}").json()["session"]["state"] == "open"
    for method, path in (
        ("GET", f"/v1/sessions/{other_session['id']}"),
        ("DELETE", f"/v1/sessions/{other_session['id']}"),
        ("DELETE", f"/v1/tasks/{task['id']}"),
    ):
        assert holder.call(method, path).status_code == 404
    assert holder.call("GET", "/v1/tasks").json() == {"tasks": []}
    assert holder.call("GET", "/v1/tasks", session=other_session["id"]).status_code == 404


@pytest.mark.parametrize("target", ["session", f"agent:{AGENT}", "agent:acme", "policy", "realm", "key:k1.0"])
def test_a_dead_session_does_nothing(unit: Harness, epochs: UnsafeLocalEpochs, target: str) -> None:
    """A kill of session, agent, one above it, policy, realm or key ends the session's token at the mint as anywhere."""
    holder, session = unit.session()
    killed = {"session": f"session:{session['id']}", "policy": f"policy:{session['policy']}"}.get(target, target)
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    epochs.kill(killed)
    answer = holder.call("POST", "/v1/tasks", LOOKUP)
    assert (answer.status_code, answer.json()["code"]) == (401, "revoked")


@pytest.mark.spec("10.2")
def test_a_session_killed_in_the_store_is_shown_as_killed(unit: Harness, epochs: UnsafeLocalEpochs) -> None:
    """What an operator sees is what the kill epoch says, not what the database last heard."""
    holder, session = unit.session()
    holder.call("POST", "/v1/tasks", LOOKUP)
    epochs.freeze(f"agent:{AGENT}")
    operator = unit.operator()
    path = f"/v1/sessions/{session['id']}"
    assert operator.call("GET", path).json()["session"]["state"] == "frozen"
    assert operator.call("GET", f"/v1/agents/{AGENT}").json()["state"] == "frozen"
    epochs.thaw(f"agent:{AGENT}")
    assert operator.call("GET", path).json()["session"]["state"] == "open"
    epochs.kill(f"session:{session['id']}")
    answer = operator.call("GET", path).json()
    assert (answer["session"]["state"], answer["tasks"][0]["state"]) == ("killed", "killed")
    assert operator.call("GET", "/v1/sessions", state="open").json() == {"sessions": []}
    assert len(operator.call("GET", "/v1/sessions", state="killed").json()["sessions"]) == 1


@pytest.mark.spec("10.2")
def test_nothing_is_granted_while_a_target_is_frozen(unit: Harness, epochs: UnsafeLocalEpochs) -> None:
    """A freeze on an agent, one above it, the policy or the realm stops sessions and tasks until it is thawed."""
    agent = unit.enrol()
    holder, _ = unit.open_session(agent)
    for target in (f"agent:{AGENT}", "agent:acme", f"policy:{unit.mint.policy.digest}", "realm", "key:k1.0"):
        epochs.freeze(target)
        assert open_with(unit, unit.assertion(agent)) == (401, "frozen")
        assert holder.call("POST", "/v1/tasks", LOOKUP).json()["code"] == "frozen"
        epochs.thaw(target)
        assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201


@pytest.mark.spec("4.3")
def test_no_operator_is_locked_out_by_a_realm_kill(unit: Harness, epochs: UnsafeLocalEpochs) -> None:
    """Operators go on after the realm was killed and frozen, and stop when they are frozen themselves."""
    operator = unit.operator()
    epochs.kill("realm")
    epochs.freeze("realm")
    assert operator.call("GET", "/v1/agents").status_code == 200
    epochs.freeze("operator:root")
    answer = operator.call("GET", "/v1/agents")
    assert (answer.status_code, answer.json()["code"]) == (401, "frozen")


def test_a_stale_view_grants_nothing_and_stops_no_kill(unit: Harness) -> None:
    """With the kill epoch unknown agents get 503; an operator still looks, and still reaches the store with a kill."""
    agent = unit.enrol()
    holder, _ = unit.open_session(agent)
    operator = unit.operator()
    unit.mint.epochs.close()
    answer = holder.call("POST", "/v1/tasks", LOOKUP)
    assert (answer.status_code, answer.json()["code"]) == (503, "closed")
    assert answer.headers["retry-after"] == "1"
    assert open_with(unit, unit.assertion(agent)) == (503, "closed")
    assert operator.call("GET", "/v1/sessions").status_code == 200
    assert operator.call("PUT", "/v1/services/orders").json()["code"] == "closed"
    kill = operator.call("POST", "/v1/kills", {"targets": ["realm"], "reason": "x"})
    assert (kill.status_code, kill.json()["code"]) == (503, "store_unavailable")


def test_secrets_are_not_shown(unit: Harness) -> None:
    """No answer but the one that gives a token, no record and no repr holds a token or a key."""
    holder, session = unit.session()
    bundle = holder.call("POST", "/v1/tasks", LOOKUP).json()["bundle"]
    operator = unit.operator()
    shown: Any = [operator.call("GET", path).text for path in ("/v1/agents", "/v1/sessions", "/v1/tasks")]
    shown += [operator.call("GET", f"/v1/sessions/{session['id']}").text, str(unit.events())]
    shown += [repr(part) for part in (unit.mint, unit.mint.root_keys, unit.mint.key_schedule.ring, unit.mint.db)]
    assert holder.token is not None
    for secret in (holder.token, bundle, holder.token[-40:], bundle[-40:], token_hash(holder.token)):
        assert not any(secret in text for text in shown)
